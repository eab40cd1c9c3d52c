//! The core's errors as the Python exceptions of `hubhooks.errors`.

use pyo3::PyErr;

use crate::error::Error;

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
            Error::Payload(problem) => {
                let (line, column) = problem.place.unzip();
                python::PayloadError::new_err((message, line, column, problem.path))
            }
        }
    }
}

/// A `ConfigError` with this message.
pub(super) fn config_error(message: &str) -> PyErr {
    Error::Config(message.to_owned()).into()
}
