//! `wasmcloud:httpserver`: what an actor is told of an HTTP request, and what it answers (wasmbus
//! protocol, section 5.1).
//!
//! This is the hot path of every host that serves the web, so the request is written by hand:
//! method, path and headers go from where the HTTP parser has them into the payload, and the body
//! follows as it arrives, copied once. The response is read without a copy: texts and body are
//! parts of the payload.

use std::{collections::TryReserveError, fmt, str};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::HeaderValue, uri::Authority};
use rmp::encode;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};

use super::{CBOR_MARKER, MSGPACK_MARKER, PayloadError, msgpack_of_cbor};

/// The contract.
pub const CONTRACT: &str = "wasmcloud:httpserver";
/// The only operation; providers call it on actors.
pub const HANDLE_REQUEST: &str = "HttpServer.HandleRequest";

/// A request without its body.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// In upper case.
    pub method: &'a str,
    /// Not decoded.
    pub path: &'a str,
    /// The part after the `?`, or nothing.
    pub query: &'a str,
    /// Names are in lower case by their type.
    pub header: &'a HeaderMap,
}

impl RequestHead<'_> {
    /// Writes the head; the body follows into what is returned. A body of known length is announced
    /// in its shortest form.
    pub fn begin(&self, body_len: Option<usize>) -> RequestWriter {
        let texts: usize =
            self.header.iter().map(|(name, value)| name.as_str().len() + value.len() + 6).sum();
        let head = self.method.len() + self.path.len() + self.query.len() + texts + 64;
        let mut out = Vec::with_capacity(head + body_len.unwrap_or(0).min(FIRST_BODY_BYTES));
        written(encode::write_map_len(&mut out, 5));
        text(&mut out, "method", self.method);
        text(&mut out, "path", self.path);
        text(&mut out, "queryString", self.query);
        written(encode::write_str(&mut out, "header"));
        self.write_header(&mut out);
        written(encode::write_str(&mut out, "body"));
        let head_at = out.len();
        match body_len {
            Some(length) => {
                written(encode::write_bin_len(&mut out, length32(length)));
            }
            // The longest form has room for every length.
            None => out.extend([BIN32, 0, 0, 0, 0]),
        }
        RequestWriter { body_at: out.len(), out, head_at, announced: body_len }
    }

    /// Writes the whole request.
    pub fn encode(&self, body: &[u8]) -> Bytes {
        let mut writer = self.begin(Some(body.len()));
        writer.push(body);
        writer.finish()
    }

    fn write_header(&self, out: &mut Vec<u8>) {
        let names = self.header.keys_len();
        written(encode::write_map_len(out, length32(names)));
        if names == self.header.len() {
            for (name, value) in self.header {
                written(encode::write_str(out, name.as_str()));
                written(encode::write_array_len(out, 1));
                header_value(out, value);
            }
            return;
        }
        for name in self.header.keys() {
            written(encode::write_str(out, name.as_str()));
            let values = self.header.get_all(name);
            written(encode::write_array_len(out, length32(values.iter().count())));
            values.iter().for_each(|value| header_value(out, value));
        }
    }
}

/// Room for a body that is made at once; larger ones grow with what arrives.
const FIRST_BODY_BYTES: usize = 64 << 10;
const BIN32: u8 = 0xc6;

/// A request whose body is being written.
#[derive(Debug)]
pub struct RequestWriter {
    out: Vec<u8>,
    /// Where the length of the body stands.
    head_at: usize,
    body_at: usize,
    announced: Option<usize>,
}

impl RequestWriter {
    /// Makes room for a body of so many bytes in all, if the machine has the memory.
    pub fn reserve(&mut self, body_len: usize) -> Result<(), TryReserveError> {
        self.out.try_reserve_exact(body_len.saturating_sub(self.body_len()))
    }

    /// Appends to the body.
    pub fn push(&mut self, data: &[u8]) {
        self.out.extend_from_slice(data);
    }

    /// How much of the body was written.
    pub fn body_len(&self) -> usize {
        self.out.len() - self.body_at
    }

    /// Returns the body without the rest.
    pub fn into_body(self) -> Bytes {
        Bytes::from(self.out).split_off(self.body_at)
    }

    /// Ends the body.
    pub fn finish(mut self) -> Bytes {
        let length = self.body_len();
        match self.announced {
            Some(announced) if announced == length => {}
            // HTTP bodies are as long as they say, or an error; should one ever not be, the payload
            // is right nevertheless.
            Some(_) => {
                let mut head = Vec::with_capacity(5);
                written(encode::write_bin_len(&mut head, length32(length)));
                self.out.splice(self.head_at..self.body_at, head);
            }
            None => self.out[self.head_at + 1..self.body_at]
                .copy_from_slice(&length32(length).to_be_bytes()),
        }
        self.out.into()
    }
}

fn text(out: &mut Vec<u8>, key: &str, value: &str) {
    written(encode::write_str(out, key));
    written(encode::write_str(out, value));
}

/// Header values may be any bytes, the contract's are text.
fn header_value(out: &mut Vec<u8>, value: &HeaderValue) {
    match str::from_utf8(value.as_bytes()) {
        Ok(text) => written(encode::write_str(out, text)),
        Err(_) => written(encode::write_str(out, &String::from_utf8_lossy(value.as_bytes()))),
    }
}

/// Bodies end at 1 GiB, headers long before.
fn length32(length: usize) -> u32 {
    u32::try_from(length).expect("no request is 4 GiB long")
}

fn written<T, E: fmt::Debug>(result: Result<T, E>) {
    result.expect("memory takes every write");
}

/// A request as an actor is told of it, in the memory of its payload. Nothing in it is checked.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct HttpRequest<'a> {
    #[serde(borrow, deserialize_with = "text_or_null")]
    pub method: &'a [u8],
    #[serde(borrow, deserialize_with = "text_or_null")]
    pub path: &'a [u8],
    /// The part after the `?`, or nothing.
    #[serde(borrow, rename = "queryString", deserialize_with = "text_or_null")]
    pub query: &'a [u8],
    /// Names and values as they came.
    #[serde(borrow, deserialize_with = "header")]
    pub header: Vec<(&'a [u8], &'a [u8])>,
    #[serde(borrow)]
    pub body: Body<'a>,
}

impl<'a> HttpRequest<'a> {
    /// Reads a request of any era from a payload that went through [`msgpack`].
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        rmp_serde::from_slice(payload)
            .map_err(|error| PayloadError::structure(HANDLE_REQUEST, error))
    }
}

/// An actor's answer, in the memory of its payload.
#[derive(Debug, Deserialize)]
pub struct HttpResponse<'a> {
    /// Not checked; 200 if the actor gave none.
    #[serde(rename = "statusCode", default = "ok", deserialize_with = "status")]
    pub status_code: u64,
    /// Names and values as they came, empty values left out.
    #[serde(borrow, default, deserialize_with = "header_with_values")]
    pub header: Vec<(&'a [u8], &'a [u8])>,
    #[serde(borrow, default)]
    pub body: Body<'a>,
}

/// The body of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Body<'a> {
    Borrowed(&'a [u8]),
    /// From an array of numbers.
    Owned(Vec<u8>),
}

impl Default for Body<'_> {
    fn default() -> Self {
        Self::Borrowed(&[])
    }
}

impl Body<'_> {
    /// The body as a part of `payload`, of which it was read.
    pub fn into_bytes(self, payload: &Bytes) -> Bytes {
        match self {
            Self::Borrowed(bytes) => payload.slice_ref(bytes),
            Self::Owned(bytes) => bytes.into(),
        }
    }
}

/// Whether the value of a `host` header ends where it ends, also for those who make a URL of it: a
/// user or a path in it would make that the URL of something else. What has no place in a name and
/// changes nothing but the name passes.
pub fn is_host(value: &[u8]) -> bool {
    let ends_it = |byte: &u8| matches!(byte, 0..=b' ' | 0x7f | b'/' | b'?' | b'#' | b'\\' | b'@');
    !value.iter().any(ends_it)
}

/// Reads the value of a `host` header for a URL: a name or an address, and perhaps a port.
pub fn authority(host: &[u8]) -> Option<Authority> {
    Authority::try_from(host).ok().filter(|_| is_host(host))
}

/// Precedes the name of the error that a component answers with.
const ERROR_CODE: &str = "wasi:http error: ";

/// Words the error that a component answers with instead of a response (components, section 4.4).
pub fn error_code(name: &str, detail: impl fmt::Display) -> String {
    format!("{ERROR_CODE}{name} ({detail})")
}

/// Reads the status that a client gets for the error of an actor; `None` if that is no code.
pub fn status_of_error(text: &str) -> Option<StatusCode> {
    let name = text.strip_prefix(ERROR_CODE)?.split(' ').next()?;
    Some(match name {
        "DNS-timeout"
        | "connection-timeout"
        | "connection-read-timeout"
        | "connection-write-timeout"
        | "HTTP-response-timeout" => StatusCode::GATEWAY_TIMEOUT,
        "destination-unavailable" | "connection-limit-reached" => StatusCode::SERVICE_UNAVAILABLE,
        "destination-not-found" | "configuration-error" | "internal-error" => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        "HTTP-request-denied" => StatusCode::FORBIDDEN,
        "HTTP-request-length-required" => StatusCode::LENGTH_REQUIRED,
        "HTTP-request-body-size" => StatusCode::PAYLOAD_TOO_LARGE,
        "HTTP-request-method-invalid" | "HTTP-request-URI-invalid" => StatusCode::BAD_REQUEST,
        "HTTP-request-URI-too-long" => StatusCode::URI_TOO_LONG,
        "HTTP-request-header-section-size"
        | "HTTP-request-header-size"
        | "HTTP-request-trailer-section-size"
        | "HTTP-request-trailer-size" => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        _ => StatusCode::BAD_GATEWAY,
    })
}

/// Takes the marker off a payload; one in CBOR is written again as MessagePack.
pub fn msgpack(payload: Bytes) -> Result<Bytes, PayloadError> {
    match payload.first() {
        Some(&MSGPACK_MARKER) => Ok(payload.slice(1..)),
        Some(&CBOR_MARKER) if payload.len() > 1 => {
            Ok(msgpack_of_cbor(HANDLE_REQUEST, &payload[1..])?.into())
        }
        _ => Ok(payload),
    }
}

impl<'a> HttpResponse<'a> {
    /// Reads an answer of any era from a payload that went through [`msgpack`].
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        rmp_serde::from_slice(payload)
            .map_err(|error| PayloadError::structure(HANDLE_REQUEST, error))
    }
}

fn ok() -> u64 {
    200
}

fn status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(ok))
}

fn text_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'de [u8], D::Error> {
    let text: Option<Text<'de>> = Option::deserialize(deserializer)?;
    Ok(text.map_or(&[], |Text(text)| text))
}

type Header<'a> = Vec<(&'a [u8], &'a [u8])>;

/// Leaves out empty values: guests of TinyGo begin their lists with empty texts.
fn header_with_values<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Header<'de>, D::Error> {
    let mut header = header(deserializer)?;
    header.retain(|(_, value)| !value.is_empty());
    Ok(header)
}

fn header<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Header<'de>, D::Error> {
    deserializer.deserialize_any(HeaderVisitor)
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of header names to values")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        // A length is only a claim, hence the bound.
        let mut header = Vec::with_capacity(map.size_hint().unwrap_or(0).min(32));
        while let Some(Text(name)) = map.next_key()? {
            map.next_value_seed(ValuesOf { name, header: &mut header })?;
        }
        Ok(header)
    }
}

/// The values of one name: an array or, of waPC's time, one text.
struct ValuesOf<'a, 'de> {
    name: &'de [u8],
    header: &'a mut Header<'de>,
}

impl<'de> ValuesOf<'_, 'de> {
    fn push(&mut self, value: &'de [u8]) {
        self.header.push((self.name, value));
    }
}

impl<'de> DeserializeSeed<'de> for ValuesOf<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValuesOf<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("header values")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_borrowed_str<E>(mut self, value: &'de str) -> Result<(), E> {
        self.push(value.as_bytes());
        Ok(())
    }

    fn visit_borrowed_bytes<E>(mut self, value: &'de [u8]) -> Result<(), E> {
        self.push(value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut values: A) -> Result<(), A::Error> {
        while let Some(Text(value)) = values.next_element()? {
            self.push(value);
        }
        Ok(())
    }
}

/// Text or bytes, in the payload's memory.
struct Text<'a>(&'a [u8]);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Text(value.as_bytes()))
    }

    fn visit_borrowed_bytes<E>(self, value: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Text(value))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Body<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BodyVisitor)
    }
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Body<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Body::default())
    }

    fn visit_borrowed_str<E>(self, body: &'de str) -> Result<Self::Value, E> {
        Ok(Body::Borrowed(body.as_bytes()))
    }

    fn visit_borrowed_bytes<E>(self, body: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Body::Borrowed(body))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut body = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(FIRST_BODY_BYTES));
        while let Some(byte) = seq.next_element::<u64>()? {
            body.push(
                u8::try_from(byte).map_err(|_| A::Error::custom(format!("{byte} is no byte")))?,
            );
        }
        Ok(Body::Owned(body))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use wasmbus_rpc::common::{deserialize, serialize};
    use wasmcloud_interface_httpserver::{
        HttpRequest as PeerRequest, HttpResponse as PeerResponse,
    };

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    fn peer(header: &[(&'static str, &str)], body: &[u8]) -> PeerRequest {
        let mut map: HashMap<String, Vec<String>> = HashMap::new();
        for (name, value) in header {
            map.entry((*name).to_owned()).or_default().push((*value).to_owned());
        }
        PeerRequest {
            method: "POST".into(),
            path: "/a%20b".into(),
            query_string: "x=1&y".into(),
            header: map,
            body: body.into(),
        }
    }

    fn head(header: &HeaderMap) -> RequestHead<'_> {
        RequestHead { method: "POST", path: "/a%20b", query: "x=1&y", header }
    }

    #[test]
    fn a_request_is_byte_for_byte_what_peers_write() {
        for (pairs, length) in [
            (&[][..], 0),
            (&[("accept", "text/html")][..], 1),
            (&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "schön")][..], 300),
            (&[("accept", "*/*")][..], 70_000),
        ] {
            let body = vec![7; length];
            let expected = serialize(&peer(pairs, &body)).unwrap();
            assert_eq!(head(&headers(pairs)).encode(&body), expected);
        }
    }

    #[test]
    fn a_body_of_unknown_or_wrong_length_is_read_by_peers() {
        let header = headers(&[("a", "1"), ("b", "2"), ("a", "3")]);
        for announced in [None, Some(1), Some(100_000)] {
            let mut writer = head(&header).begin(announced);
            writer.push(b"hel");
            writer.push(b"lo");
            let read: PeerRequest = deserialize(&writer.finish()).unwrap();
            assert_eq!(read, peer(&[("a", "1"), ("a", "3"), ("b", "2")], b"hello"));
        }
    }

    #[test]
    fn header_values_that_are_no_text_are_made_text() {
        let mut header = HeaderMap::new();
        header.append("x", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        let read: PeerRequest = deserialize(&head(&header).encode(b"")).unwrap();
        assert_eq!(read.header["x"], ["caf\u{fffd}"]);
    }

    #[test]
    fn a_peers_response_is_read_in_place() {
        let response = PeerResponse {
            status_code: 404,
            header: HashMap::from([(
                "x-a".to_owned(),
                vec![String::new(), "1".into(), "2".into()],
            )]),
            body: b"gone".to_vec(),
        };
        let payload = Bytes::from(serialize(&response).unwrap());
        let read = HttpResponse::decode(&payload).unwrap();
        assert_eq!(
            (read.status_code, read.header),
            (404, vec![(&b"x-a"[..], &b"1"[..]), (b"x-a", b"2")])
        );
        let body = read.body.into_bytes(&payload);
        assert_eq!(body, "gone");
        assert!(payload.as_ptr_range().contains(&body.as_ptr()), "the body was copied");
    }

    #[test]
    fn responses_of_all_years_are_read() {
        let msgpack_of = |json: serde_json::Value| rmp_serde::to_vec_named(&json).unwrap();
        let decode = |payload: Vec<u8>| {
            let payload = msgpack(payload.into()).unwrap();
            let read = HttpResponse::decode(&payload).unwrap();
            let header: Vec<(String, String)> = read
                .header
                .iter()
                .map(|(n, v)| {
                    (String::from_utf8_lossy(n).into(), String::from_utf8_lossy(v).into())
                })
                .collect();
            (read.status_code, header, read.body.into_bytes(&payload))
        };
        let nothing = (200, vec![], Bytes::new());
        assert_eq!(decode(msgpack_of(serde_json::json!({}))), nothing);
        let null = serde_json::json!({"statusCode": null, "header": null, "body": null});
        assert_eq!(decode(msgpack_of(null)), nothing);
        let wapc = serde_json::json!({"statusCode": 201, "status": "Created", "header": {"a": "b"}, "body": [104, 105]});
        let created = (201, vec![("a".to_owned(), "b".to_owned())], Bytes::from("hi"));
        assert_eq!(decode(msgpack_of(wapc.clone())), created);
        assert_eq!(decode(msgpack_of(serde_json::json!([201, {"a": ["b"]}, "hi"]))), created);
        let mut marked = vec![MSGPACK_MARKER];
        marked.extend(msgpack_of(wapc.clone()));
        assert_eq!(decode(marked), created);
        let mut cbor = vec![CBOR_MARKER];
        ciborium::into_writer(&wapc, &mut cbor).unwrap();
        assert_eq!(decode(cbor), created);
    }

    #[test]
    fn what_is_no_response_is_an_error() {
        for bad in [
            &b""[..],
            b"\xc0",
            b"hello",
            b"\x81\xa4body\xc6\xff\xff\xff\xff",
            b"\x81\xaastatusCode\xff",
        ] {
            assert!(HttpResponse::decode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_host_has_no_user_and_no_path() {
        for host in ["a", "a:80", "[::1]:80", "::1", "a:80:81", ":80", "a%20b", "sch\u{f6}n"] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in ["a/", "a?x", "a#", "a\\b", "me@a", "a b", "a\tb", "a\0", "a\x7f"] {
            assert!(!is_host(host.as_bytes()) && authority(host.as_bytes()).is_none(), "{host}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(payload) = msgpack(bytes.into()) {
                let _ = HttpResponse::decode(&payload);
            }
        }
    }
}
