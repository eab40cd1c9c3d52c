//! The example `axum_server` receives requests.

mod common;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[path = "../examples/axum_server.rs"]
#[allow(dead_code, reason = "a test has its own `main`")]
mod example;

/// Send a request to the example, and return the status and the body of the response.
async fn send(secret: &str, body: &str) -> (u16, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let app = example::app("right").expect("a valid secret");
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let request = format!(
        "POST /webhook HTTP/1.1\r\nhost: {address}\r\nx-webhook-secret: {secret}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("a sent request");
    let mut response = String::new();
    stream
        .read_to_string(&mut response)
        .await
        .expect("a response");
    server.abort();

    let status = response.split(' ').nth(1).expect("a status line");
    let (_, body) = response.split_once("\r\n\r\n").expect("a body");
    (status.parse().expect("a status"), body.to_owned())
}

#[tokio::test]
async fn matching_delivery_is_accepted() {
    let body = common::sample("repo.content.update").to_string();
    assert_eq!(send("right", &body).await, (202, "started".into()));
}

#[tokio::test]
async fn other_delivery_gets_the_explanation() {
    let body = common::sample("repo.config.update").to_string();
    let (status, text) = send("right", &body).await;
    assert_eq!(status, 200);
    assert!(
        text.starts_with("does not match: the scope is `repo.config`"),
        "{text}"
    );
}

#[tokio::test]
async fn wrong_secret_is_rejected() {
    let (status, text) = send("wrong", "{}").await;
    assert_eq!(status, 403);
    assert_eq!(text, "the request's secret is not the one configured here");
}

#[tokio::test]
async fn invalid_body_is_rejected() {
    let (status, text) = send("right", "{}").await;
    assert_eq!(status, 400);
    assert!(
        text.starts_with("expected a key `event` with `action` and `scope`"),
        "{text}"
    );
}
