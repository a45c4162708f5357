"""What is known of a machine, as plain values; None where it could not be found out."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Package:
    """One distribution that mpt needs.

    Attributes:
        name: on the index.
        installed: its version; None where it is absent.
        required: the versions that mpt takes, as a specifier.
        fits: whether the one is among the others; None where that cannot be told.
    """

    name: str
    installed: str | None
    required: str
    fits: bool | None


@dataclass(frozen=True)
class Environment:
    """The interpreter and what is installed in it.

    Attributes:
        python: its version.
        executable: its path.
        packages: what mpt requires.
        others: distributions that get in the way of ours, by name.
        variables: of the process, those that change what TensorFlow, Keras or CUDA do.
        folder: the current one, where runs go; None where it was removed.
        folder_writable: whether a folder can be made in it.
        folder_free_bytes: on its disk.
    """

    python: str
    executable: str
    packages: tuple[Package, ...]
    others: tuple[str, ...]
    variables: dict[str, str]
    folder: str | None
    folder_writable: bool
    folder_free_bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One card, as the driver's management library (NVML) tells of it.

    Attributes:
        compute_capability: (major, minor).
        memory_bytes, free_bytes: of the card.
        driver_cuda: the newest CUDA that the driver serves, as (major, minor).
    """

    name: str
    compute_capability: tuple[int, int] | None
    memory_bytes: int | None
    free_bytes: int | None
    driver: str | None
    driver_cuda: tuple[int, int] | None


@dataclass(frozen=True)
class Hardware:
    """Processor, memory and cards, found without TensorFlow.

    Attributes:
        cpu: the vendor's name of it.
        cores: that this process may use.
        units: instructions of the processor that matter here.
        memory_bytes, available_bytes: of the host, or of the control group where that has less.
        gpus: cards that the driver lists.
        card_without_driver: there is an NVIDIA card, and no driver that answers.
    """

    cpu: str
    cores: int
    units: tuple[str, ...]
    memory_bytes: int | None
    available_bytes: int | None
    gpus: tuple[Gpu, ...] = ()
    card_without_driver: bool = False


@dataclass
class TensorFlow:
    """What a process found that imported TensorFlow and used it, as far as it got.

    Attributes:
        version, keras: versions; None where the import failed.
        backend: of Keras.
        import_seconds: that the import took.
        cuda_built, cudnn_built: versions that TensorFlow is built for; None in a build without.
        architectures: compute capabilities that it has code for, "sm_80" say.
        cuda_found, cudnn_found: versions of the libraries that the process could load.
        gpus: cards that it uses, by name.
        xla_seconds: that XLA took to compile a product, which was right; None where it failed.
        xla_error, error: what went wrong, in the last line of it.
        stage: the last stage that was reached: "start", "imported", "devices", "xla".
        ended_by: the signal that killed it, as "SIGILL"; "timeout" where it did not answer.
    """

    version: str | None = None
    keras: str | None = None
    backend: str | None = None
    import_seconds: float | None = None
    cuda_built: str | None = None
    cudnn_built: str | None = None
    architectures: tuple[str, ...] = ()
    cuda_found: str | None = None
    cudnn_found: str | None = None
    gpus: tuple[str, ...] = ()
    xla_seconds: float | None = None
    xla_error: str | None = None
    error: str | None = None
    stage: str = "start"
    ended_by: str | None = None


@dataclass(frozen=True)
class Facts:
    """All that is known; `tensorflow` is None where it was not asked for."""

    mpt: str
    environment: Environment
    hardware: Hardware
    tensorflow: TensorFlow | None = None


@dataclass(frozen=True)
class Finding:
    """Something to know or to mend.

    Attributes:
        level: "problem" (training fails), "warning" (it is slow or may fail), or "note".
        about: the row of the table that it belongs to.
        message: what it is, in one sentence.
        remedy: one line: what to do.
    """

    level: str
    about: str
    message: str
    remedy: str | None = field(default=None)
