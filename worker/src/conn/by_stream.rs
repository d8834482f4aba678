//! What the message streams of a connection do, by their ids. Nearly always it is one, and then it lies where the connection lies:
//! at thousands of connections each memory access that it saves is one that would miss the caches.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// See the [module](self). In the order of the ids.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ByStream<T>(SmallVec<[(u32, T); 1]>);

impl<T> Default for ByStream<T> {
    fn default() -> Self {
        Self(SmallVec::new())
    }
}

impl<T> ByStream<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, msid: u32) -> Option<&T> {
        self.iter().find(|(id, _)| *id == msid).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, msid: u32) -> Option<&mut T> {
        self.0.iter_mut().find(|(id, _)| *id == msid).map(|(_, value)| value)
    }

    /// In place of what it had before.
    pub(super) fn insert(&mut self, msid: u32, value: T) {
        self.remove(msid);
        let index = self.0.partition_point(|(id, _)| *id < msid);
        self.0.insert(index, (msid, value));
    }

    pub(super) fn remove(&mut self, msid: u32) -> Option<T> {
        let index = self.0.iter().position(|(id, _)| *id == msid)?;
        Some(self.0.remove(index).1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.0.iter().map(|(id, value)| (*id, value))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_has_one_value_and_they_are_in_order() {
        let mut streams = ByStream::default();
        for (msid, value) in [(3, 'a'), (1, 'b'), (2, 'c'), (3, 'd')] {
            streams.insert(msid, value);
        }
        assert_eq!(streams.iter().collect::<Vec<_>>(), [(1, &'b'), (2, &'c'), (3, &'d')]);
        *streams.get_mut(2).unwrap() = 'e';
        assert_eq!((streams.remove(1), streams.remove(1)), (Some('b'), None));
        assert_eq!((streams.get(2), streams.get(1), streams.len()), (Some(&'e'), None, 2));
        assert!(streams.values().eq(&['e', 'd']) && !streams.is_empty());
    }
}
