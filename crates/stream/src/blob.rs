//! Bytes that are kept once and never change: headers and metadata, each an object of its own in the memory that outlives the process.

use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use shm::{Id, Object, Store};

/// The kind of these objects.
pub(crate) const KIND: u32 = 1;

/// See the [module](self). A clone is the same object; it is gone when the last one is.
#[derive(Clone, Debug)]
pub(crate) struct Blob(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: Bytes,
    home: Option<(Store, Id)>,
    /// In a record that is being read: whose bytes are still to be found.
    named: Option<Id>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some((store, id)) = &self.home {
            store.remove(*id);
        }
    }
}

impl Blob {
    /// A copy of `bytes`.
    pub(crate) fn new(store: &Store, bytes: &[u8]) -> Self {
        let home = store.add().filter(|id| {
            let is_kept = store.put(*id, KIND, bytes);
            if !is_kept {
                store.remove(*id);
            }
            is_kept
        });
        let home = home.map(|id| (store.clone(), id));
        Self(Rc::new(Inner { bytes: Bytes::copy_from_slice(bytes), home, named: None }))
    }

    /// Finds the bytes of one that was read from a record; false if they are not there.
    pub(crate) fn resolve(&mut self, blobs: &mut Blobs) -> bool {
        let Some(id) = self.0.named else { return true };
        match blobs.get(id) {
            Some(found) => {
                *self = found;
                true
            }
            None => false,
        }
    }
}

impl Deref for Blob {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.0.bytes
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for Blob {}

impl Serialize for Blob {
    /// Its number; an error if it ends with this process.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let id = self.0.home.as_ref().map(|(_, id)| *id);
        id.ok_or_else(|| serde::ser::Error::custom("there was no memory that stays"))?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named = Some(Id::deserialize(deserializer)?);
        Ok(Self(Rc::new(Inner { bytes: Bytes::new(), home: None, named })))
    }
}

/// The kept bytes that a process before has left, by their numbers. Those that no record names are removed with it.
#[derive(Debug)]
pub struct Blobs(HashMap<Id, Blob>);

impl Blobs {
    /// Takes them out of `objects`.
    #[must_use]
    pub fn take(store: &Store, objects: &mut Vec<Object>) -> Self {
        let blobs = objects.extract_if(.., |object| object.kind == KIND).map(|object| {
            let home = Some((store.clone(), object.id));
            (object.id, Blob(Rc::new(Inner { bytes: object.bytes.into(), home, named: None })))
        });
        Self(blobs.collect())
    }

    fn get(&mut self, id: Id) -> Option<Blob> {
        self.0.get(&id).cloned()
    }
}
