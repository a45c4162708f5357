"""What a machine has for mpt, what is wrong with it, and what to do: `mpt doctor`.

Facts are gathered first (`environment`, `hardware`, `tensorflow_facts`), rules find what is wrong
with them (`findings`), and `table` prints both. Nothing here imports TensorFlow into the process of
the command: a child does (`tensorflow_child`), so that an import that fails, hangs or kills its
process is a finding like any other.
"""
