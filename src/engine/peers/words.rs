//! The form in which hosts tell each other something: every message between hosts is sealed when
//! it is sent, and opened when it comes.

use bytes::Bytes;

use lattice_protocol::peers::wire::Announcement;

/// Seals and opens the messages of hosts.
#[derive(Clone, Debug, Default)]
pub struct Words;

impl Words {
    /// Encodes an announcement of this host for a server with this `max_payload`, in bytes.
    pub fn seal(&self, announcement: &Announcement, max_payload: usize) -> Bytes {
        announcement.encode(max_payload)
    }

    /// Decodes the announcement of another host; returns nothing if it makes no sense.
    pub fn open(&self, payload: &[u8]) -> Option<Announcement> {
        serde_json::from_slice(payload).ok()
    }
}
