//! A server that receives webhooks of the Hub, with axum.
//!
//! It checks the secret, parses the body, matches a filter, and responds.
//!
//! ```sh
//! WEBHOOK_SECRET=... cargo run --no-default-features --example axum_server
//! ```

use std::sync::Arc;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::routing::post;
use hubhooks::OwnedEvent;
use hubhooks::error::Error;
use hubhooks::filter::{Criteria, Filter, ScopeOrClass};
use hubhooks::secret::Verifier;
use tokio::net::TcpListener;

const MAX_BODY_SIZE: usize = 32 * 1024 * 1024;

struct Receiver {
    verifier: Verifier,
    filter: Filter,
}

pub(crate) fn app(secret: &str) -> Result<Router, Error> {
    let receiver = Receiver {
        verifier: Verifier::new([secret])?,
        filter: Filter::new(Criteria {
            scopes: vec![ScopeOrClass::Scope("repo.content".into())],
            r#ref: Some(vec!["main".into()]),
            ..Criteria::default()
        })?,
    };
    Ok(Router::new()
        .route("/webhook", post(receive))
        .with_state(Arc::new(receiver)))
}

async fn receive(State(receiver): State<Arc<Receiver>>, request: Request) -> (StatusCode, String) {
    // Check the secret before the body is read.
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    let query = request.uri().query().map(str::as_bytes);
    match receiver.verifier.verify_request(headers, query) {
        Ok(()) => {}
        Err(error @ Error::SecretMissing) => return (StatusCode::UNAUTHORIZED, error.to_string()),
        Err(error) => return (StatusCode::FORBIDDEN, error.to_string()),
    }
    let Ok(body) = to_bytes(request.into_body(), MAX_BODY_SIZE).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the body is too long".into());
    };
    let event = match OwnedEvent::parse(body) {
        Ok(event) => event,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()),
    };
    if !receiver.filter.matches(event.event()) {
        let explanation = receiver.filter.explain(event.event());
        return (StatusCode::OK, explanation.text);
    }
    // The Hub waits for the response, so start slow work after it.
    tokio::task::spawn_blocking(move || handle(&event));
    (StatusCode::ACCEPTED, "started".into())
}

#[expect(clippy::print_stdout, reason = "it is the output of the example")]
fn handle(event: &OwnedEvent) {
    if let Some(repo) = &event.event().repo {
        println!("{} has new commits on main", repo.name);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let app = app(&std::env::var("WEBHOOK_SECRET")?)?;
    let listener = TcpListener::bind("127.0.0.1:8000").await?;
    axum::serve(listener, app).await?;
    Ok(())
}
