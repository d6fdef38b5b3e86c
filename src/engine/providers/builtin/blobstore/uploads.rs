//! The uploads a link has open between their chunks.
//!
//! While a chunk is written its upload is out of the table, so no lock is held meanwhile and a
//! second chunk is refused instead of being mixed in. An upload nobody goes on with is dropped by
//! [`Uploads::expire`], with what it wrote.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::backend::{Error, Upload};
use lattice_protocol::contracts::blobstore::Chunk;

/// Uploads one link may have open.
pub const OPEN_MAX: usize = 32;
/// How long an upload waits for its next chunk.
pub const IDLE_MAX: Duration = Duration::from_secs(300);

/// The open uploads, by stream id.
#[derive(Default)]
pub struct Uploads(Mutex<HashMap<String, Slot>>);

struct Slot {
    container: String,
    object: String,
    /// Bytes that arrived.
    written: u64,
    touched: Instant,
    /// `None` while a chunk is written.
    upload: Option<Box<dyn Upload>>,
}

impl Uploads {
    /// Takes a place for an upload of the object of this chunk; its id.
    pub fn reserve(&self, chunk: &Chunk) -> Result<String, Error> {
        let mut open = self.0.lock();
        if open.len() >= OPEN_MAX {
            return Err(Error::UploadsFull(OPEN_MAX));
        }
        let id = uuid::Uuid::new_v4().to_string();
        let slot = Slot {
            container: chunk.container_id.clone(),
            object: chunk.object_id.clone(),
            written: 0,
            touched: Instant::now(),
            upload: None,
        };
        open.insert(id.clone(), slot);
        Ok(id)
    }

    /// The id of the only open upload of an object, for callers that do not repeat it.
    pub fn id_of(&self, chunk: &Chunk) -> Option<String> {
        let open = self.0.lock();
        let mut ids = open
            .iter()
            .filter(|(_, slot)| {
                slot.container == chunk.container_id && slot.object == chunk.object_id
            })
            .map(|(id, _)| id.clone());
        ids.next().filter(|_| ids.next().is_none())
    }

    /// Takes an upload out for a chunk, which has to begin where the one before ended. It stays if
    /// the chunk does not fit.
    pub fn take(&self, id: &str, chunk: &Chunk) -> Result<Box<dyn Upload>, Error> {
        let mut open = self.0.lock();
        let slot = slot_of(&mut open, id, chunk)?;
        if chunk.offset != slot.written {
            return Err(Error::Offset { expected: slot.written, found: chunk.offset });
        }
        slot.upload.take().ok_or_else(|| Error::UploadBusy(id.to_owned()))
    }

    /// Gives the place of an upload up, wherever the chunk begins: an actor that cancels need not
    /// know how much arrived. Returns the upload for the caller to abort; of one whose chunk is
    /// being written nothing, since [`put_back`](Self::put_back) hands that one out.
    pub fn cancel(&self, id: &str, chunk: &Chunk) -> Result<Option<Box<dyn Upload>>, Error> {
        let mut open = self.0.lock();
        slot_of(&mut open, id, chunk)?;
        Ok(open.remove(id).and_then(|slot| slot.upload))
    }

    /// Puts an upload back after `bytes` more were written; returns it if its place is gone.
    pub fn put_back(
        &self,
        id: &str,
        upload: Box<dyn Upload>,
        bytes: usize,
    ) -> Option<Box<dyn Upload>> {
        let mut open = self.0.lock();
        let Some(slot) = open.get_mut(id) else { return Some(upload) };
        slot.written += bytes as u64;
        slot.touched = Instant::now();
        slot.upload = Some(upload);
        None
    }

    /// Gives the place of an upload up.
    pub fn remove(&self, id: &str) {
        self.0.lock().remove(id);
    }

    /// Takes out the uploads nobody went on with since `idle`; the caller aborts them.
    pub fn expire(&self, idle: Duration) -> Vec<Box<dyn Upload>> {
        let mut open = self.0.lock();
        let expired = open.extract_if(|_, slot| slot.touched.elapsed() >= idle);
        expired.filter_map(|(_, slot)| slot.upload).collect()
    }
}

/// Returns the place of an upload, which has to be of the chunk's object.
fn slot_of<'a>(
    open: &'a mut HashMap<String, Slot>,
    id: &str,
    chunk: &Chunk,
) -> Result<&'a mut Slot, Error> {
    let slot = open.get_mut(id).ok_or_else(|| Error::NoUpload(id.to_owned()))?;
    if slot.container != chunk.container_id || slot.object != chunk.object_id {
        return Err(Error::OtherObject {
            stream: id.to_owned(),
            container: slot.container.clone(),
            object: slot.object.clone(),
        });
    }
    Ok(slot)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::future::BoxFuture;

    use super::*;

    struct Nowhere;

    impl Upload for Nowhere {
        fn write(&mut self, _: Bytes) -> BoxFuture<'_, Result<(), Error>> {
            Box::pin(async { Ok(()) })
        }

        fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), Error>> {
            Box::pin(async { Ok(()) })
        }

        fn abort(self: Box<Self>) -> BoxFuture<'static, ()> {
            Box::pin(async {})
        }
    }

    fn chunk(offset: u64) -> Chunk {
        Chunk { object_id: "o".into(), container_id: "c".into(), offset, ..Default::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn chunks_come_in_order_and_one_at_a_time() {
        let uploads = Uploads::default();
        let id = uploads.reserve(&chunk(0)).unwrap();
        assert!(matches!(uploads.take(&id, &chunk(0)), Err(Error::UploadBusy(_))));
        assert!(uploads.put_back(&id, Box::new(Nowhere), 10).is_none());
        assert!(matches!(
            uploads.take(&id, &chunk(0)),
            Err(Error::Offset { expected: 10, found: 0 })
        ));
        let other = Chunk { object_id: "x".into(), ..chunk(10) };
        assert!(matches!(uploads.take(&id, &other), Err(Error::OtherObject { .. })));
        assert!(matches!(uploads.take("unknown", &chunk(10)), Err(Error::NoUpload(_))));
        assert_eq!(uploads.id_of(&chunk(10)).as_ref(), Some(&id));
        let upload = uploads.take(&id, &chunk(10)).unwrap();
        assert!(uploads.cancel(&id, &other).is_err());
        assert!(uploads.cancel(&id, &chunk(0)).unwrap().is_none(), "a chunk is being written");
        assert!(uploads.put_back(&id, upload, 1).is_some(), "its place is gone");
        let id = uploads.reserve(&chunk(0)).unwrap();
        uploads.put_back(&id, Box::new(Nowhere), 10);
        assert!(uploads.cancel(&id, &chunk(0)).unwrap().is_some());
        assert!(matches!(uploads.cancel(&id, &chunk(0)), Err(Error::NoUpload(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_goes_on_with_makes_room() {
        let uploads = Uploads::default();
        for _ in 0..OPEN_MAX {
            let id = uploads.reserve(&chunk(0)).unwrap();
            uploads.put_back(&id, Box::new(Nowhere), 1);
        }
        assert!(matches!(uploads.reserve(&chunk(0)), Err(Error::UploadsFull(OPEN_MAX))));
        assert_eq!(uploads.id_of(&chunk(0)), None, "there are several");
        assert!(uploads.expire(IDLE_MAX).is_empty());
        tokio::time::advance(IDLE_MAX).await;
        assert_eq!(uploads.expire(IDLE_MAX).len(), OPEN_MAX);
        assert!(uploads.reserve(&chunk(0)).is_ok());
    }
}
