//! The native module of the Python package. Only this folder uses the interpreter.

mod convert;
mod errors;
mod event;
mod files;
mod filter;
mod parts;
mod secret;
mod shared;
mod view;

use pyo3::prelude::*;

/// The Rust core of hubhooks.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::event::{
        CommentEvent, ConfigEvent, ContentEvent, DiscussionEvent, HubEvent, RepoEvent,
    };
    #[pymodule_export]
    use super::files::{UpdatedFile, UpdatedFiles};
    #[pymodule_export]
    use super::filter::{Filter, match_filters, narrow, nearest_scope};
    #[pymodule_export]
    use super::parts::{
        Changes, Comment, Discussion, MovedTo, Owner, Repo, UpdatedRef, Url, Webhook,
    };
    #[pymodule_export]
    use super::secret::{Verifier, storable_headers};
    #[pymodule_export]
    use super::view::unpickle_view;

    use pyo3::prelude::*;
    use pyo3::types::{PyDict, PyTuple};

    use crate::filter::{ACTIONS, REPO_TYPES, STATUSES};
    use crate::scope::SCOPES;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        super::errors::load(py);
        let scopes = PyDict::new(py);
        for (scope, actions) in SCOPES {
            scopes.set_item(scope, PyTuple::new(py, actions)?)?;
        }
        module.add("SCOPES", scopes)?;
        module.add("ACTIONS", PyTuple::new(py, ACTIONS)?)?;
        module.add("REPO_TYPES", PyTuple::new(py, REPO_TYPES)?)?;
        module.add("STATUSES", PyTuple::new(py, STATUSES)?)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        // Special methods that call user code are written in Python: see `convert::reentrant`.
        let special = [
            (py.get_type::<super::Filter>(), "__init__", "make_filter"),
            (
                py.get_type::<super::Verifier>(),
                "__init__",
                "warn_of_quotes",
            ),
            (
                py.get_type::<super::UpdatedFiles>(),
                "__getitem__",
                "get_file",
            ),
        ];
        for (class, method, function) in special {
            class.setattr(method, super::convert::reentrant(py, function)?)?;
        }
        py.import("collections.abc")?
            .getattr("Sequence")?
            .call_method1("register", (py.get_type::<super::UpdatedFiles>(),))?;
        Ok(())
    }
}

use files::UpdatedFiles;
use filter::Filter;
use secret::Verifier;
