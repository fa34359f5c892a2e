"""The exceptions and warnings cuvee raises.

CuveeError
├── ConfigError             (ValueError)    a setting is unknown, missing or out of range
├── DataError               (ValueError)    documents, tables or arrays are not what they must be
├── InfeasibleError         (ValueError)    constraints that no mixture satisfies
├── NotFittedError          (RuntimeError)  predict() before fit()
├── ArtifactError           (RuntimeError)  a stage's folder is missing, damaged or in use
└── MissingDependencyError  (ImportError)   an optional extra is not installed

CuveeWarning (UserWarning)                  the result may be doubted
"""


class CuveeError(Exception):
    """Base of every error cuvee raises on purpose."""


class ConfigError(CuveeError, ValueError):
    """A setting is unknown, missing or out of range."""


class DataError(CuveeError, ValueError):
    """Documents, tables or arrays are not what they must be."""


class InfeasibleError(CuveeError, ValueError):
    """No mixture satisfies the constraints."""


class NotFittedError(CuveeError, RuntimeError):
    """A predictor was asked before it was fitted."""


class ArtifactError(CuveeError, RuntimeError):
    """A stage's folder is missing, damaged, in use or made by another config."""


class MissingDependencyError(CuveeError, ImportError):
    """An optional extra is not installed."""


class CuveeWarning(UserWarning):
    """The result is usable but may be doubted."""
