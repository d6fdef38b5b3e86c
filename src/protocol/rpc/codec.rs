//! Invocations and responses in msgpack.
//!
//! Written by hand, since it runs twice per remote call on each side. The encoder writes a map with
//! all fields, strings as keys, the shortest integers and `bin` for payloads: every peer reads
//! that. The decoder reads anything that peers wrote in four years:
//!
//! - a map with keys in any order, unknown ones skipped, or an array in the order of the fields;
//! - payloads as `bin`, as `str` with any bytes in it, as an array of bytes, nil or absent;
//! - no `content_length`, no `traceContext`, or nil instead;
//! - in responses no `invocation_id`, and text that is not UTF-8 in `error`.
//!
//! Bytes behind the message are ignored, as in the peers' decoders. Payloads are not copied: they
//! share the buffer of the message. Nothing is reserved by a length that the input does not back
//! with as many bytes, and skipping does not recurse, so hostile input costs no more than its own
//! size.

use bytes::Bytes;

use super::invocation::{Entity, Invocation, InvocationResponse, TraceContext, shared};

mod reader;
mod writer;

use reader::Reader;
pub use reader::{DecodeError, Problem};
use writer::Writer;

/// The order of fields in the array form, which is the order we write.
const INVOCATION: [&[u8]; 9] = [
    b"origin",
    b"target",
    b"operation",
    b"msg",
    b"id",
    b"encoded_claims",
    b"host_id",
    b"content_length",
    b"traceContext",
];
const ENTITY: [&[u8]; 3] = [b"public_key", b"link_name", b"contract_id"];
const RESPONSE: [&[u8]; 5] =
    [b"msg", b"invocation_id", b"error", b"content_length", b"traceContext"];

/// The names of an entity's fields in errors.
struct EntityFields {
    entity: &'static str,
    public_key: &'static str,
    link_name: &'static str,
    contract_id: &'static str,
}

const ORIGIN: EntityFields = EntityFields {
    entity: "origin",
    public_key: "origin.public_key",
    link_name: "origin.link_name",
    contract_id: "origin.contract_id",
};
const TARGET: EntityFields = EntityFields {
    entity: "target",
    public_key: "target.public_key",
    link_name: "target.link_name",
    contract_id: "target.contract_id",
};

/// Encodes an invocation.
pub fn encode_invocation(invocation: &Invocation) -> Bytes {
    // Keys and heads take about 220 bytes.
    let mut out = Writer::with_capacity(
        invocation.msg.len()
            + invocation.encoded_claims.len()
            + entity_bytes(&invocation.origin)
            + entity_bytes(&invocation.target)
            + 512,
    );
    out.map(9);
    out.key("origin");
    encode_entity(&invocation.origin, &mut out);
    out.key("target");
    encode_entity(&invocation.target, &mut out);
    out.key("operation");
    out.str(&invocation.operation);
    out.key("msg");
    out.bin(&invocation.msg);
    out.key("id");
    out.str(&invocation.id);
    out.key("encoded_claims");
    out.str(&invocation.encoded_claims);
    out.key("host_id");
    out.str(&invocation.host_id);
    out.key("content_length");
    out.uint(invocation.content_length);
    out.key("traceContext");
    encode_trace(&invocation.trace_context, &mut out);
    out.finish()
}

/// Encodes a response. Success has no `error` member: older hosts take even an empty one for a
/// failure.
pub fn encode_response(response: &InvocationResponse) -> Bytes {
    let error_bytes = response.error.as_ref().map_or(0, String::len);
    let mut out = Writer::with_capacity(response.msg.len() + error_bytes + 256);
    out.map(if response.error.is_some() { 5 } else { 4 });
    out.key("msg");
    out.bin(&response.msg);
    out.key("invocation_id");
    out.str(&response.invocation_id);
    if let Some(error) = &response.error {
        out.key("error");
        out.str(error);
    }
    out.key("content_length");
    out.uint(response.content_length);
    out.key("traceContext");
    encode_trace(&response.trace_context, &mut out);
    out.finish()
}

fn entity_bytes(entity: &Entity) -> usize {
    entity.public_key.len() + entity.link_name.len() + entity.contract_id.len()
}

fn encode_entity(entity: &Entity, out: &mut Writer) {
    out.map(3);
    out.key("public_key");
    out.str(&entity.public_key);
    out.key("link_name");
    out.str(&entity.link_name);
    out.key("contract_id");
    out.str(&entity.contract_id);
}

fn encode_trace(trace: &TraceContext, out: &mut Writer) {
    out.map(trace.0.len());
    for (name, value) in &trace.0 {
        out.str(name);
        out.str(value);
    }
}

/// Decodes an invocation. Its payload shares the buffer.
pub fn decode_invocation(buffer: Bytes) -> Result<Invocation, DecodeError> {
    let (mut origin, mut target, mut operation, mut msg) = (None, None, None, None);
    let (mut id, mut encoded_claims, mut host_id) = (None, None, None);
    let (mut content_length, mut trace_context) = (None, None);

    let mut input = Reader::new(&buffer);
    let shape = input.shape("invocation")?;
    for index in 0..shape.len() {
        match input.field(shape, index, &INVOCATION)? {
            b"origin" => once(&mut origin, decode_entity(&mut input, &ORIGIN)?, "origin")?,
            b"target" => once(&mut target, decode_entity(&mut input, &TARGET)?, "target")?,
            b"operation" => once(&mut operation, text(&mut input, "operation")?, "operation")?,
            b"msg" => once(&mut msg, input.payload(&buffer, "msg")?, "msg")?,
            b"id" => once(&mut id, text(&mut input, "id")?, "id")?,
            b"encoded_claims" => {
                once(&mut encoded_claims, text(&mut input, "encoded_claims")?, "encoded_claims")?
            }
            b"host_id" => once(&mut host_id, text(&mut input, "host_id")?, "host_id")?,
            // An array from a sender with a trace but no length has the trace in this place.
            b"content_length" if shape.is_array() && input.at_map() => {
                trace_context = Some(decode_trace(&mut input)?);
            }
            b"content_length" => {
                once(&mut content_length, input.uint_or_nil("content_length")?, "content_length")?
            }
            b"traceContext" => once(&mut trace_context, decode_trace(&mut input)?, "traceContext")?,
            _ => input.skip("an unknown field")?,
        }
    }

    let msg = msg.unwrap_or_default();
    Ok(Invocation {
        origin: present(origin, "origin")?,
        target: present(target, "target")?,
        operation: present(operation, "operation")?,
        id: present(id, "id")?,
        encoded_claims: present(encoded_claims, "encoded_claims")?,
        host_id: present(host_id, "host_id")?,
        content_length: content_length.flatten().unwrap_or(msg.len() as u64),
        msg,
        trace_context: trace_context.unwrap_or_default(),
    })
}

/// Decodes a response. Its payload shares the buffer.
pub fn decode_response(buffer: Bytes) -> Result<InvocationResponse, DecodeError> {
    let (mut msg, mut invocation_id, mut error) = (None, None, None);
    let (mut content_length, mut trace_context) = (None, None);

    let mut input = Reader::new(&buffer);
    let shape = input.shape("response")?;
    for index in 0..shape.len() {
        match input.field(shape, index, &RESPONSE)? {
            b"msg" => once(&mut msg, input.payload(&buffer, "msg")?, "msg")?,
            b"invocation_id" => {
                let id = input.bytes_or_nil("invocation_id")?.unwrap_or_default();
                let id = reader::utf8(id, "invocation_id")?;
                once(&mut invocation_id, id.to_owned(), "invocation_id")?;
            }
            // An array from a sender without an error has the length in this place.
            b"error" if shape.is_array() && input.at_uint() => {
                content_length = Some(input.uint_or_nil("content_length")?);
            }
            b"error" => {
                let text = input.bytes_or_nil("error")?.unwrap_or_default();
                let text = String::from_utf8_lossy(text).into_owned();
                once(&mut error, text, "error")?;
            }
            b"content_length" => {
                once(&mut content_length, input.uint_or_nil("content_length")?, "content_length")?
            }
            b"traceContext" => once(&mut trace_context, decode_trace(&mut input)?, "traceContext")?,
            _ => input.skip("an unknown field")?,
        }
    }

    let msg = msg.unwrap_or_default();
    Ok(InvocationResponse {
        invocation_id: invocation_id.unwrap_or_default(),
        error: error.filter(|text| !text.is_empty()),
        content_length: content_length.flatten().unwrap_or(msg.len() as u64),
        msg,
        trace_context: trace_context.unwrap_or_default(),
    })
}

fn decode_entity(
    input: &mut Reader<'_>,
    names: &'static EntityFields,
) -> Result<Entity, DecodeError> {
    let (mut public_key, mut link_name, mut contract_id) = (None, None, None);
    let shape = input.shape(names.entity)?;
    for index in 0..shape.len() {
        let (slot, name) = match input.field(shape, index, &ENTITY)? {
            b"public_key" => (&mut public_key, names.public_key),
            b"link_name" => (&mut link_name, names.link_name),
            b"contract_id" => (&mut contract_id, names.contract_id),
            _ => {
                input.skip(names.entity)?;
                continue;
            }
        };
        once(slot, shared(input.str(name)?), name)?;
    }
    Ok(Entity {
        public_key: present(public_key, names.public_key)?,
        // The 2024 peers read actors without these two.
        link_name: link_name.unwrap_or_else(|| shared("")),
        contract_id: contract_id.unwrap_or_else(|| shared("")),
    })
}

/// Reads what is well-formed of a trace context; no call fails for the rest.
fn decode_trace(input: &mut Reader<'_>) -> Result<TraceContext, DecodeError> {
    const FIELD: &str = "traceContext";
    let mut trace = TraceContext::default();
    if !input.at_map() {
        input.skip(FIELD)?;
        return Ok(trace);
    }
    let shape = input.shape(FIELD)?;
    for _ in 0..shape.len() {
        let (name, value) = (input.str_or_skip(FIELD)?, input.str_or_skip(FIELD)?);
        if let (Some(name), Some(value)) = (name, value) {
            trace.0.push((name.to_owned(), value.to_owned()));
        }
    }
    Ok(trace)
}

fn text(input: &mut Reader<'_>, field: &'static str) -> Result<String, DecodeError> {
    Ok(input.str(field)?.to_owned())
}

/// Fills a field. A second value is refused: another decoder might have taken the other one.
fn once<T>(slot: &mut Option<T>, value: T, field: &'static str) -> Result<(), DecodeError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(DecodeError { field, problem: Problem::Duplicate }),
    }
}

fn present<T>(slot: Option<T>, field: &'static str) -> Result<T, DecodeError> {
    slot.ok_or(DecodeError { field, problem: Problem::Missing })
}

#[cfg(test)]
mod tests;
