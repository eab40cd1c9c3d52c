//! The core's errors as the Python exceptions of `hubhooks.errors`.

use pyo3::prelude::*;

use crate::error::{Error, PayloadError};

mod python {
    use pyo3::import_exception;

    import_exception!(hubhooks.errors, ConfigError);
    import_exception!(hubhooks.errors, PayloadError);
    import_exception!(hubhooks.errors, SecretMismatchError);
    import_exception!(hubhooks.errors, SecretMissingError);
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Config(_) => python::ConfigError::new_err(message),
            Error::SecretMissing => python::SecretMissingError::new_err(message),
            Error::SecretMismatch => python::SecretMismatchError::new_err(message),
            Error::Payload(error) => {
                Python::attach(|py| payload_error(py, message, error).unwrap_or_else(|error| error))
            }
        }
    }
}

/// Import the exceptions early, because an error must not import anything.
pub(super) fn load(py: Python<'_>) {
    let _ = (
        py.get_type::<python::ConfigError>(),
        py.get_type::<python::PayloadError>(),
        py.get_type::<python::SecretMismatchError>(),
        py.get_type::<python::SecretMissingError>(),
    );
}

/// A `PayloadError`, made without its `__init__`. At exit, the interpreter ends a daemon thread in
/// Python code, and the process aborts if Rust called that code.
fn payload_error(py: Python<'_>, message: String, source: PayloadError) -> PyResult<PyErr> {
    let class = py.get_type::<python::PayloadError>();
    let error = class.call_method1("__new__", (&class, message))?;
    let (line, column) = source.place.unzip();
    error.setattr("line", line)?;
    error.setattr("column", column)?;
    error.setattr("path", source.path)?;
    Ok(python::PayloadError::new_err(error.unbind()))
}

/// A `ConfigError` with this message.
pub(super) fn config_error(message: &str) -> PyErr {
    Error::Config(message.to_owned()).into()
}
