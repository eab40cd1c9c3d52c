//! Which headers of a request are stored with its delivery.

use crate::secret::Verifier;

/// Stands for a value that is not stored.
const REDACTED: &str = "(redacted)";

/// The headers whose values are stored, sorted. Proxies add credentials in headers of any name. None
/// of these is a credential. They help to find the sender and the proxy of a request.
const STORED: [&[u8]; 44] = [
    b"accept",
    b"accept-charset",
    b"accept-encoding",
    b"accept-language",
    b"cache-control",
    b"cf-connecting-ip",
    b"cf-ipcountry",
    b"cf-ray",
    b"connection",
    b"content-encoding",
    b"content-language",
    b"content-length",
    b"content-type",
    b"date",
    b"expect",
    b"forwarded",
    b"host",
    b"keep-alive",
    b"max-forwards",
    b"te",
    b"traceparent",
    b"trailer",
    b"transfer-encoding",
    b"true-client-ip",
    b"upgrade",
    b"user-agent",
    b"via",
    b"webhook-id",
    b"webhook-timestamp",
    b"x-amzn-trace-id",
    b"x-b3-parentspanid",
    b"x-b3-sampled",
    b"x-b3-spanid",
    b"x-b3-traceid",
    b"x-cloud-trace-context",
    b"x-correlation-id",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-proto",
    b"x-hubhooks-origin",
    b"x-real-ip",
    b"x-request-id",
    b"x-request-start",
];

/// The headers of a request as JSON, an array of pairs. Values that may be secret are redacted: those
/// of other headers than the common ones, those that have a query, and those that have the secret as
/// a word.
pub fn storable<'h>(
    headers: impl IntoIterator<Item = (&'h [u8], &'h [u8])>,
    verifier: Option<&Verifier>,
) -> String {
    let pairs: Vec<(String, String)> = headers
        .into_iter()
        .map(|(name, value)| {
            let value = if is_storable(name, value, verifier) {
                latin1(value)
            } else {
                REDACTED.into()
            };
            (latin1(name), value)
        })
        .collect();
    serde_json::to_string(&pairs).unwrap_or_default()
}

fn is_storable(name: &[u8], value: &[u8], verifier: Option<&Verifier>) -> bool {
    STORED
        .binary_search(&&name.to_ascii_lowercase()[..])
        .is_ok()
        && !may_have_query(value)
        && !verifier.is_some_and(|verifier| has_secret(value, verifier))
}

/// Signs of a URL with a query, percent-encoded or not. None of the stored headers should have one.
fn may_have_query(value: &[u8]) -> bool {
    value.iter().any(|byte| matches!(byte, b'?' | b'%'))
        || value
            .windows(SECRET.len())
            .any(|part| part.eq_ignore_ascii_case(SECRET))
}

const SECRET: &[u8] = b"secret";

/// Whether a value is the secret, or has it as a word: `for=10.0.0.1;host=hub` has four words.
fn has_secret(value: &[u8], verifier: &Verifier) -> bool {
    verifier.may_be_secret(value)
        || value
            .split(|byte| {
                byte.is_ascii_whitespace() || matches!(byte, 0x0b | b',' | b';' | b'=' | b'"')
            })
            .any(|word| verifier.may_be_secret(word))
}

/// The text of a header. Each byte is one character.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::{STORED, storable};
    use crate::secret::Verifier;

    fn stored(name: &str, value: &[u8]) -> String {
        let verifier = Verifier::new(["moon light"]).ok();
        let json = storable([(name.as_bytes(), value)], verifier.as_ref());
        let pairs: Vec<(String, String)> = serde_json::from_str(&json).unwrap_or_default();
        pairs.into_iter().map(|(_, value)| value).collect()
    }

    #[test]
    fn names_are_sorted() {
        assert!(STORED.is_sorted());
    }

    #[test]
    fn common_header_is_stored() {
        assert_eq!(stored("User-Agent", b"axios/1.7"), "axios/1.7");
        assert_eq!(stored("via", b"caf\xe9 \"x\""), "caf\u{e9} \"x\"");
    }

    #[test]
    fn origin_of_a_copy_is_stored() {
        let origin = "https://me-bot.hf.space";
        assert_eq!(stored("x-hubhooks-origin", origin.as_bytes()), origin);
    }

    #[test]
    fn other_header_is_redacted() {
        assert_eq!(stored("authorization", b"Bearer a"), "(redacted)");
        assert_eq!(stored("x-webhook-secret", b"a"), "(redacted)");
        assert_eq!(stored("x-own", b"a"), "(redacted)");
    }

    #[test]
    fn query_is_redacted() {
        for value in [&b"http://a?b=c"[..], b"a%3Fb", b"a SECRET b"] {
            assert_eq!(stored("via", value), "(redacted)");
        }
    }

    #[test]
    fn word_that_is_the_secret_is_redacted() {
        let verifier = Verifier::new(["moon", "light"]).ok();
        for value in [
            &b"moon"[..],
            b" moon ",
            b"for=light;host=b",
            b"a,\"moon\"",
            b"\x0bmoon",
        ] {
            let json = storable([(&b"via"[..], value)], verifier.as_ref());
            assert_eq!(json, r#"[["via","(redacted)"]]"#);
        }
        let json = storable([(&b"via"[..], &b"moonlight"[..])], verifier.as_ref());
        assert_eq!(json, r#"[["via","moonlight"]]"#);
    }

    #[test]
    fn secret_with_a_space_is_redacted_as_whole_value() {
        assert_eq!(stored("via", b" moon light\t"), "(redacted)");
        assert_eq!(stored("via", b"moon"), "moon");
    }

    #[test]
    fn no_verifier_redacts_by_name_only() {
        let json = storable([(&b"host"[..], &b"moon"[..])], None);
        assert_eq!(json, r#"[["host","moon"]]"#);
    }
}
