//! `wasmcloud:httpclient`: an actor makes an HTTP request (wasmbus protocol, section 5.2).

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, status::InvalidStatusCode};
use serde::{Deserialize, Serialize};

use super::binary::Binary;
use crate::serde_null::null_as_default;

pub const CONTRACT_ID: &str = "wasmcloud:httpclient";
/// Precedes the method in operation names.
pub const SERVICE: &str = "HttpClient";
/// Its only method, but for [`SEND`].
pub const REQUEST: &str = "Request";
/// An operation of the built-in provider that the contract does not have: it takes an
/// [`HttpRequest`], follows no redirect, and returns [`Sent`]. Components want both, and hosts send
/// it to no other provider (components, section 2.4).
pub const SEND: &str = "Send";

/// The request that the actor asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRequest {
    #[serde(default, deserialize_with = "null_as_default")]
    pub method: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub url: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub headers: BTreeMap<String, HeaderValues>,
    #[serde(default)]
    pub body: Binary,
}

/// The answer of the server, with any status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpResponse {
    #[serde(rename = "statusCode")]
    pub status_code: u16,
    /// Singular here, plural in the request: so the interface was published.
    pub header: BTreeMap<String, HeaderValues>,
    pub body: Binary,
}

impl HttpResponse {
    /// Makes one of an answer whose body was read to its end.
    pub fn of(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Self {
        let (status_code, header) = (status.as_u16(), header_map(headers));
        Self { status_code, header, body: body.into() }
    }

    /// Returns the answer; headers that are none are left out.
    pub fn into_http(self) -> Result<Response<Bytes>, InvalidStatusCode> {
        let mut response = Response::new(self.body.0);
        *response.status_mut() = StatusCode::from_u16(self.status_code)?;
        for (name, HeaderValues(values)) in self.header {
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { continue };
            for value in values {
                if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                    response.headers_mut().append(&name, value);
                }
            }
        }
        Ok(response)
    }
}

/// Headers as the contract has them: names in lower case, a text for each line. A value that is not
/// UTF-8 is read as Latin-1, of which every byte is a character.
pub fn header_map(headers: &HeaderMap) -> BTreeMap<String, HeaderValues> {
    let mut map: BTreeMap<String, HeaderValues> = BTreeMap::new();
    for (name, value) in headers {
        let value = str::from_utf8(value.as_bytes())
            .map(str::to_owned)
            .unwrap_or_else(|_| value.as_bytes().iter().copied().map(char::from).collect());
        map.entry(name.as_str().to_owned()).or_default().0.push(value);
    }
    map
}

/// The outcome of a request that follows no redirect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sent {
    Response(HttpResponse),
    Failed {
        cause: FailureCause,
        /// For people.
        text: String,
    },
}

/// The kind of a failure, by the names of `wasi:http`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureCause {
    DnsError,
    DestinationIpProhibited,
    ConnectionRefused,
    ConnectionTimeout,
    ConnectionLimitReached,
    TlsCertificateError,
    TlsProtocolError,
    HttpRequestDenied,
    HttpRequestBodySize,
    HttpRequestUriInvalid,
    HttpResponseBodySize,
    HttpResponseTimeout,
    /// Everything else, and what later hosts add.
    #[default]
    #[serde(other)]
    InternalError,
}

/// The values of one header, in order: an array, or a bare text for one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HeaderValues(#[serde(deserialize_with = "one_or_many")] pub Vec<String>);

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Many(Vec<String>),
        One(String),
        None(()),
    }
    Ok(match Form::deserialize(deserializer)? {
        Form::Many(values) => values,
        Form::One(value) => vec![value],
        Form::None(()) => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use wasmbus_rpc::common::{deserialize, serialize};
    use wasmcloud_interface_httpclient as published;

    use super::*;
    use crate::contracts::{decode, encode};

    fn values(texts: &[&str]) -> HeaderValues {
        HeaderValues(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn requests_of_the_published_interface_are_read() {
        let theirs = published::HttpRequest {
            method: "POST".into(),
            url: "http://example.org/".into(),
            headers: HashMap::from([("Accept".into(), vec!["a".into(), "b".into()])]),
            body: vec![0, 200, 7],
        };
        let ours = HttpRequest {
            method: "POST".into(),
            url: "http://example.org/".into(),
            headers: BTreeMap::from([("Accept".into(), values(&["a", "b"]))]),
            body: vec![0, 200, 7].into(),
        };
        assert_eq!(decode::<HttpRequest>("Request", &serialize(&theirs).unwrap()).unwrap(), ours);
        let back: published::HttpRequest = deserialize(&encode(&ours)).unwrap();
        assert_eq!(back, theirs);
    }

    #[test]
    fn responses_are_read_by_the_published_interface() {
        let ours = HttpResponse {
            status_code: 404,
            header: BTreeMap::from([("set-cookie".into(), values(&["a=1", "b=2"]))]),
            body: vec![1, 255].into(),
        };
        let theirs: published::HttpResponse = deserialize(&encode(&ours)).unwrap();
        assert_eq!((theirs.status_code, &theirs.body[..]), (404, &[1, 255][..]));
        assert_eq!(theirs.header["set-cookie"], ["a=1", "b=2"]);
        assert_eq!(decode::<HttpResponse>("Request", &serialize(&theirs).unwrap()).unwrap(), ours);
    }

    #[test]
    fn causes_of_later_hosts_are_internal_errors() {
        let later = serde_json::json!({"failed": {"cause": "http-3-required", "text": "why"}});
        let read: Sent = decode("Send", &encode(&later)).unwrap();
        let cause = FailureCause::InternalError;
        assert_eq!(read, Sent::Failed { cause, text: "why".into() });
        for sent in [read, Sent::Response(HttpResponse::default())] {
            assert_eq!(decode::<Sent>("Send", &encode(&sent)).unwrap(), sent);
        }
    }

    #[test]
    fn loose_forms_of_a_request_are_understood() {
        let json = serde_json::json!({ "method": "GET", "url": "http://a/", "headers": { "x": "one", "y": null }, "more": 1 });
        let read: HttpRequest = decode("Request", &encode(&json)).unwrap();
        assert_eq!(
            read.headers,
            BTreeMap::from([("x".into(), values(&["one"])), ("y".into(), values(&[]))])
        );
        assert_eq!(read.body, Binary::default());

        let in_order = serde_json::json!(["GET", "http://a/", null, "text"]);
        let read: HttpRequest = decode("Request", &encode(&in_order)).unwrap();
        assert_eq!((read.url.as_str(), read.body), ("http://a/", "text".into()));

        let error = decode::<HttpRequest>("HttpClient.Request", &encode(&7)).unwrap_err();
        assert!(error.to_string().contains("HttpClient.Request"), "{error}");
    }
}
