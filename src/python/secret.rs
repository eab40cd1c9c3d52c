//! The verifier for Python.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use super::convert::reentrant;
use crate::error::Error;
use crate::headers;
use crate::secret;

/// Checks the webhook secret of a request. It keeps only digests of the secrets.
///
/// Each of several secrets is right, so that one can be replaced without losing deliveries. White
/// space around a secret is removed. The Hub sends the secret itself in the header
/// `X-Webhook-Secret`. It is not a signature.
///
/// Args:
///     secrets: the secrets, as in the settings of the webhook on the Hub.
///
/// A secret in quotation marks warns, because an env file may have added them.
///
/// Raises:
///     ConfigError: there is no secret, or one is empty, not ASCII or has control characters.
///
/// Source: https://huggingface.co/docs/hub/webhooks#webhook-secret
#[pyclass(frozen, module = "hubhooks")]
pub(crate) struct Verifier(secret::Verifier);

#[pymethods]
impl Verifier {
    #[new]
    #[pyo3(signature = (*secrets))]
    fn new(secrets: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let secrets = secrets
            .iter()
            .map(|secret| match secret.cast_into::<PyString>() {
                Ok(secret) => secret.extract::<String>().map_err(|_| unusable().into()),
                Err(other) => Err(expected("str", &other.into_inner())),
            })
            .collect::<PyResult<Vec<_>>>()?;
        Ok(Self(secret::Verifier::new(&secrets)?))
    }

    /// Check the secret of a request.
    ///
    /// Args:
    ///     value: the value of the header or of the parameter; None if the request has neither.
    ///
    /// Raises:
    ///     SecretMissingError: there is no value.
    ///     SecretMismatchError: the value is not one of the secrets.
    #[pyo3(signature = (value, /))]
    fn verify(&self, value: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        match value {
            None => Ok(self.0.verify(None)?),
            Some(value) => with_bytes(value, |value| Ok(self.0.verify(Some(value))?)),
        }
    }

    #[classattr]
    fn verify_request(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        reentrant(py, "verify_request")
    }

    #[classattr]
    fn check(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        reentrant(py, "check")
    }

    /// Implement `verify_request`, with the headers as a list of tuples or lists.
    #[pyo3(signature = (headers, query))]
    fn _verify_pairs(
        &self,
        headers: &Bound<'_, PyAny>,
        query: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Ok(self.checked(headers, query)??)
    }

    /// Implement `check`, with the headers as a list of tuples or lists.
    #[pyo3(signature = (headers, query))]
    fn _check_pairs(
        &self,
        headers: &Bound<'_, PyAny>,
        query: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<&'static str>> {
        match self.checked(headers, query)? {
            Ok(()) => Ok(None),
            Err(Error::SecretMissing) => Ok(Some("missing")),
            Err(Error::SecretMismatch) => Ok(Some("mismatch")),
            Err(other) => Err(other.into()),
        }
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

impl Verifier {
    fn checked(
        &self,
        headers: &Bound<'_, PyAny>,
        query: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Result<(), Error>> {
        let values = secret_headers(headers)?;
        let found = values.iter().map(|value| (secret::HEADER, &value[..]));
        match query {
            None => Ok(self.0.verify_request(found, None)),
            Some(query) => with_bytes(query, |query| Ok(self.0.verify_request(found, Some(query)))),
        }
    }
}

/// The headers of a request as JSON, for the store. Values that may be secret are redacted.
///
/// Args:
///     headers: pairs of name and value.
///     verifier: finds the secret in values; None if there is no secret.
#[pyfunction]
#[pyo3(signature = (headers, verifier=None, /))]
pub(crate) fn storable_headers(
    headers: &Bound<'_, PyList>,
    verifier: Option<&Bound<'_, Verifier>>,
) -> PyResult<String> {
    let mut pairs = Vec::with_capacity(headers.len());
    for pair in headers {
        let (name, value) = name_and_value(&pair)?;
        let name = with_bytes(&name, |name| Ok(name.to_vec()))?;
        pairs.push((name, with_bytes(&value, |value| Ok(value.to_vec()))?));
    }
    let pairs = pairs.iter().map(|(name, value)| (&name[..], &value[..]));
    Ok(headers::storable(
        pairs,
        verifier.map(|verifier| &verifier.get().0),
    ))
}

/// The values of the headers with a secret.
fn secret_headers(headers: &Bound<'_, PyAny>) -> PyResult<Vec<Vec<u8>>> {
    let Ok(pairs) = headers.cast::<PyList>() else {
        return Err(expected("headers as a mapping or as pairs", headers));
    };
    let mut values = Vec::new();
    for pair in pairs {
        let (name, value) = name_and_value(&pair)?;
        if with_bytes(&name, |name| Ok(name.eq_ignore_ascii_case(secret::HEADER)))? {
            values.push(with_bytes(&value, |value| Ok(value.to_vec()))?);
        }
    }
    Ok(values)
}

/// A header: a tuple, or else a list.
fn name_and_value<'py>(
    pair: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    if let Ok(pair) = pair.extract() {
        return Ok(pair);
    }
    pair.cast::<PyList>()
        .ok()
        .and_then(|pair| <[_; 2]>::try_from(pair.iter().collect::<Vec<_>>()).ok())
        .map(Into::into)
        .ok_or_else(|| expected("a pair of a header's name and its value", pair))
}

/// A str or bytes as bytes.
fn with_bytes<T>(
    value: &Bound<'_, PyAny>,
    use_it: impl FnOnce(&[u8]) -> PyResult<T>,
) -> PyResult<T> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        use_it(bytes.as_bytes())
    } else if let Ok(text) = value.cast::<PyString>() {
        match text.encode_utf8() {
            Ok(bytes) => use_it(bytes.as_bytes()),
            // A str with lone surrogates equals no secret and no header name.
            Err(_) => use_it(b"\xff"),
        }
    } else {
        Err(expected("str or bytes", value))
    }
}

/// Names the type only, because the value can be a secret.
fn expected(what: &str, value: &Bound<'_, PyAny>) -> PyErr {
    let found = value.get_type();
    let found = found
        .name()
        .map_or_else(|_| "another type".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("expected {what}, found {found}"))
}

fn unusable() -> Error {
    Error::Config("a webhook secret has lone surrogates; expected ASCII".into())
}
