//! Reads msgpack from a buffer that nobody vouches for.
//!
//! Each step is checked against the end of the buffer. A length that promises more than is left is
//! an error before anything is allocated: every msgpack value takes at least one byte.

use bytes::Bytes;
use rmp::Marker;

/// Why a message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` {problem}")]
pub struct DecodeError {
    /// The field, with a dot before members of an entity.
    pub field: &'static str,
    pub problem: Problem,
}

/// The error in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("is missing")]
    Missing,
    #[error("occurs twice")]
    Duplicate,
    #[error("is cut off")]
    Truncated,
    #[error("is not UTF-8 text")]
    NotUtf8,
    #[error("is a negative number")]
    Negative,
    #[error("should be {expected}, found {found}")]
    Type { expected: &'static str, found: &'static str },
}

/// The two forms of a record.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Map(u32),
    Array(u32),
}

impl Shape {
    pub(super) fn len(self) -> u32 {
        let (Self::Map(length) | Self::Array(length)) = self;
        length
    }

    pub(super) fn is_array(self) -> bool {
        matches!(self, Self::Array(_))
    }
}

pub(super) struct Reader<'a> {
    buffer: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(buffer: &'a [u8]) -> Self {
        Self { buffer, at: 0 }
    }

    /// Reads the head of a record.
    pub(super) fn shape(&mut self, field: &'static str) -> Result<Shape, DecodeError> {
        let marker = self.marker(field)?;
        let shape = match marker {
            Marker::FixMap(length) => Shape::Map(length.into()),
            Marker::Map16 => Shape::Map(self.number(2, field)? as u32),
            Marker::Map32 => Shape::Map(self.number(4, field)? as u32),
            Marker::FixArray(length) => Shape::Array(length.into()),
            Marker::Array16 => Shape::Array(self.number(2, field)? as u32),
            Marker::Array32 => Shape::Array(self.number(4, field)? as u32),
            other => return Err(wrong_type(field, "a map or an array", other)),
        };
        Ok(shape)
    }

    /// Returns the name of the next field: read from a map, taken from the order in an array.
    /// Unknown is empty.
    #[inline]
    pub(super) fn field(
        &mut self,
        shape: Shape,
        index: u32,
        order: &[&'static [u8]],
    ) -> Result<&'a [u8], DecodeError> {
        const KEY: &str = "a key";
        match shape {
            Shape::Array(_) => Ok(usize::try_from(index)
                .ok()
                .and_then(|index| order.get(index).copied())
                .unwrap_or_default()),
            Shape::Map(_) => {
                let start = self.at;
                let marker = self.marker(KEY)?;
                if let Some(key) = self.string(marker, KEY)? {
                    return Ok(key);
                }
                self.at = start;
                self.skip(KEY)?;
                Ok(b"")
            }
        }
    }

    /// Reads text.
    #[inline]
    pub(super) fn str(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let marker = self.marker(field)?;
        match self.string(marker, field)? {
            Some(bytes) => utf8(bytes, field),
            None => Err(wrong_type(field, "a string", marker)),
        }
    }

    /// Reads the bytes of a string of any kind, or nil.
    pub(super) fn bytes_or_nil(
        &mut self,
        field: &'static str,
    ) -> Result<Option<&'a [u8]>, DecodeError> {
        let marker = self.marker(field)?;
        match self.string(marker, field)? {
            None if marker != Marker::Null => Err(wrong_type(field, "a string or nil", marker)),
            bytes => Ok(bytes),
        }
    }

    /// Reads text, or skips whatever else is there.
    pub(super) fn str_or_skip(
        &mut self,
        field: &'static str,
    ) -> Result<Option<&'a str>, DecodeError> {
        let start = self.at;
        let marker = self.marker(field)?;
        match self.string(marker, field)? {
            Some(bytes) => Ok(std::str::from_utf8(bytes).ok()),
            None => {
                self.at = start;
                self.skip(field)?;
                Ok(None)
            }
        }
    }

    /// Reads a payload in any of its forms; all but the array share the memory of `whole`, the
    /// reader's own buffer.
    pub(super) fn payload(
        &mut self,
        whole: &Bytes,
        field: &'static str,
    ) -> Result<Bytes, DecodeError> {
        let marker = self.marker(field)?;
        if let Some(bytes) = self.string(marker, field)? {
            return Ok(whole.slice(self.at - bytes.len()..self.at));
        }
        let length = match marker {
            Marker::Null => return Ok(Bytes::new()),
            Marker::FixArray(length) => length.into(),
            Marker::Array16 => self.number(2, field)?,
            Marker::Array32 => self.number(4, field)?,
            other => return Err(wrong_type(field, "bytes", other)),
        };
        if length > self.left() {
            return Err(error(field, Problem::Truncated));
        }
        (0..length)
            .map(|_| {
                let marker = self.marker(field)?;
                u8::try_from(self.uint(marker, field)?)
                    .map_err(|_| wrong_type(field, "a byte", marker))
            })
            .collect::<Result<Vec<u8>, _>>()
            .map(Bytes::from)
    }

    /// Reads an integer of any width, or nil.
    pub(super) fn uint_or_nil(&mut self, field: &'static str) -> Result<Option<u64>, DecodeError> {
        match self.marker(field)? {
            Marker::Null => Ok(None),
            marker => self.uint(marker, field).map(Some),
        }
    }

    /// Says whether a map comes next.
    pub(super) fn at_map(&self) -> bool {
        matches!(self.peek(), Some(Marker::FixMap(_) | Marker::Map16 | Marker::Map32))
    }

    /// Says whether an unsigned integer comes next.
    pub(super) fn at_uint(&self) -> bool {
        matches!(
            self.peek(),
            Some(Marker::FixPos(_) | Marker::U8 | Marker::U16 | Marker::U32 | Marker::U64)
        )
    }

    /// Skips one value with all it contains, counting open values instead of recursing.
    pub(super) fn skip(&mut self, field: &'static str) -> Result<(), DecodeError> {
        let mut open = 1u64;
        while open > 0 {
            if open > self.left() {
                return Err(error(field, Problem::Truncated));
            }
            let marker = self.marker(field)?;
            open -= 1;
            if self.string(marker, field)?.is_some() {
                continue;
            }
            let bytes = match marker {
                Marker::FixMap(length) => {
                    open += 2 * u64::from(length);
                    0
                }
                Marker::Map16 => {
                    open += 2 * self.number(2, field)?;
                    0
                }
                Marker::Map32 => {
                    open += 2 * self.number(4, field)?;
                    0
                }
                Marker::FixArray(length) => {
                    open += u64::from(length);
                    0
                }
                Marker::Array16 => {
                    open += self.number(2, field)?;
                    0
                }
                Marker::Array32 => {
                    open += self.number(4, field)?;
                    0
                }
                Marker::U8 | Marker::I8 => 1,
                Marker::U16 | Marker::I16 | Marker::FixExt1 => 2,
                Marker::FixExt2 => 3,
                Marker::U32 | Marker::I32 | Marker::F32 => 4,
                Marker::FixExt4 => 5,
                Marker::U64 | Marker::I64 | Marker::F64 => 8,
                Marker::FixExt8 => 9,
                Marker::FixExt16 => 17,
                Marker::Ext8 => self.number(1, field)? + 1,
                Marker::Ext16 => self.number(2, field)? + 1,
                Marker::Ext32 => self.number(4, field)? + 1,
                _ => 0,
            };
            self.take(bytes, field)?;
        }
        Ok(())
    }

    /// Reads the rest of a string or binary whose marker was read; none for all other values.
    #[inline]
    fn string(
        &mut self,
        marker: Marker,
        field: &'static str,
    ) -> Result<Option<&'a [u8]>, DecodeError> {
        let length = match marker {
            Marker::FixStr(length) => length.into(),
            Marker::Str8 | Marker::Bin8 => self.number(1, field)?,
            Marker::Str16 | Marker::Bin16 => self.number(2, field)?,
            Marker::Str32 | Marker::Bin32 => self.number(4, field)?,
            _ => return Ok(None),
        };
        self.take(length, field).map(Some)
    }

    /// Reads the rest of an integer whose marker was read.
    fn uint(&mut self, marker: Marker, field: &'static str) -> Result<u64, DecodeError> {
        let (number, sign_bit) = match marker {
            Marker::FixPos(number) => (number.into(), 0),
            Marker::U8 => (self.number(1, field)?, 0),
            Marker::U16 => (self.number(2, field)?, 0),
            Marker::U32 => (self.number(4, field)?, 0),
            Marker::U64 => (self.number(8, field)?, 0),
            Marker::I8 => (self.number(1, field)?, 1 << 7),
            Marker::I16 => (self.number(2, field)?, 1 << 15),
            Marker::I32 => (self.number(4, field)?, 1 << 31),
            Marker::I64 => (self.number(8, field)?, 1 << 63),
            Marker::FixNeg(_) => return Err(error(field, Problem::Negative)),
            other => return Err(wrong_type(field, "an integer", other)),
        };
        if number & sign_bit == 0 { Ok(number) } else { Err(error(field, Problem::Negative)) }
    }

    #[inline]
    fn peek(&self) -> Option<Marker> {
        self.buffer.get(self.at).copied().map(Marker::from_u8)
    }

    #[inline]
    fn marker(&mut self, field: &'static str) -> Result<Marker, DecodeError> {
        let marker = self.peek().ok_or_else(|| error(field, Problem::Truncated))?;
        self.at += 1;
        Ok(marker)
    }

    /// Reads a big-endian number of up to eight bytes.
    #[inline]
    fn number(&mut self, bytes: u64, field: &'static str) -> Result<u64, DecodeError> {
        let bytes = self.take(bytes, field)?;
        Ok(bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    #[inline]
    fn take(&mut self, length: u64, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let taken = usize::try_from(length)
            .ok()
            .and_then(|length| self.buffer[self.at..].get(..length))
            .ok_or_else(|| error(field, Problem::Truncated))?;
        self.at += taken.len();
        Ok(taken)
    }

    fn left(&self) -> u64 {
        (self.buffer.len() - self.at) as u64
    }
}

/// Checks that bytes are text.
pub(super) fn utf8<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| error(field, Problem::NotUtf8))
}

#[cold]
fn error(field: &'static str, problem: Problem) -> DecodeError {
    DecodeError { field, problem }
}

#[cold]
fn wrong_type(field: &'static str, expected: &'static str, found: Marker) -> DecodeError {
    let found = match found {
        Marker::Null => "nil",
        Marker::True | Marker::False => "a boolean",
        Marker::F32 | Marker::F64 => "a floating-point number",
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => "a string",
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => "binary",
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => "an array",
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => "a map",
        Marker::FixPos(_)
        | Marker::FixNeg(_)
        | Marker::U8
        | Marker::U16
        | Marker::U32
        | Marker::U64
        | Marker::I8
        | Marker::I16
        | Marker::I32
        | Marker::I64 => "an integer",
        Marker::Reserved => "an unused marker",
        _ => "an extension",
    };
    error(field, Problem::Type { expected, found })
}
