//! The few msgpack forms that we write, each in its shortest encoding.

use bytes::Bytes;

pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(super) fn finish(self) -> Bytes {
        self.0.into()
    }

    pub(super) fn map(&mut self, entries: usize) {
        match entries {
            0..=15 => self.0.push(0x80 | entries as u8),
            16..=0xFFFF => self.head(0xDE, &(entries as u16).to_be_bytes()),
            _ => self.head(0xDF, &length32(entries)),
        }
    }

    /// A field name; all of ours have fewer than 32 bytes, so that the head is known at compile
    /// time.
    #[inline]
    pub(super) fn key(&mut self, name: &'static str) {
        debug_assert!(name.len() < 32);
        self.0.push(0xA0 | name.len() as u8);
        self.0.extend_from_slice(name.as_bytes());
    }

    pub(super) fn str(&mut self, text: &str) {
        match text.len() {
            length @ 0..=31 => self.0.push(0xA0 | length as u8),
            length @ 32..=0xFF => self.head(0xD9, &[length as u8]),
            length @ 0x100..=0xFFFF => self.head(0xDA, &(length as u16).to_be_bytes()),
            length => self.head(0xDB, &length32(length)),
        }
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(super) fn bin(&mut self, bytes: &[u8]) {
        match bytes.len() {
            length @ 0..=0xFF => self.head(0xC4, &[length as u8]),
            length @ 0x100..=0xFFFF => self.head(0xC5, &(length as u16).to_be_bytes()),
            length => self.head(0xC6, &length32(length)),
        }
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn uint(&mut self, number: u64) {
        match number {
            0..=0x7F => self.0.push(number as u8),
            0x80..=0xFF => self.head(0xCC, &[number as u8]),
            0x100..=0xFFFF => self.head(0xCD, &(number as u16).to_be_bytes()),
            0x1_0000..=0xFFFF_FFFF => self.head(0xCE, &(number as u32).to_be_bytes()),
            _ => self.head(0xCF, &number.to_be_bytes()),
        }
    }

    fn head(&mut self, marker: u8, number: &[u8]) {
        self.0.push(marker);
        self.0.extend_from_slice(number);
    }
}

/// msgpack ends at 4 GiB. So do guests' memories and, long before, what a NATS server takes.
fn length32(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("payloads come out of 32-bit memories").to_be_bytes()
}
