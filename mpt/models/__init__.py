"""Model families, one module each, with `build(*, shape, classes, **params) -> keras.Model`.

`build` is called after the precision policy is set and makes the model under it. Keras is imported
inside the functions: the signatures are read to check a configuration, which imports no TensorFlow.
"""
