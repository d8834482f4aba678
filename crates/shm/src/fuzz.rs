//! Fuzz bodies and what they need: any bytes may come in, none may panic, and what a body asserts must hold for all.

use crate::layout::{ENTRY, EPOCH_AT, LAYOUT, LAYOUT_AT, MAGIC, MAGIC_AT, PLACES_AT, TABLE_AT};
use crate::{Memory, Place, Recovery, Store};

/// Bytes of the memory that a body looks at.
const LEN: usize = 256 * 1024;

/// Memory that an earlier process has left like this.
#[must_use]
pub fn memory(bytes: &[u8]) -> Memory {
    let memory = Memory::heap(bytes.len());
    memory.write(0, bytes);
    memory
}

/// What an earlier process would leave now.
#[must_use]
pub fn image(store: &Store) -> Vec<u8> {
    let memory = &store.0.memory;
    memory.read(0, memory.len() as usize).unwrap_or_default()
}

/// The data are writes into the memory of a store with some objects in it, each with how it is to be believed, and then places of blocks.
pub fn port_memory(data: &[u8]) {
    let store = Store::private(LEN);
    for byte in 0..4 {
        let id = store.add().expect("there is room");
        assert!(store.put(id, 1, &[byte; 100]));
        store.commit();
    }
    let mut image = image(&store);
    let (writes, places) = data.split_at(data.len() / 2);
    for write in writes.chunks_exact(12) {
        let [kind, low, high, side, rest @ ..] = write else { continue };
        let at = u64::from(u16::from_le_bytes([*low, *high]));
        let value = u64::from_le_bytes(rest.try_into().unwrap_or_default());
        let (number, side) = (at % 64, side % 2);
        match kind % 6 {
            // An entry that is as it would be written.
            0 | 1 => {
                let (offset, pair) = (value & 0xffff_ffff, value >> 32);
                let kind = u32::from(kind / 6);
                crate::store::forge(&mut image, (number as u32, side), (at % 8, offset, pair as u32, kind));
            }
            2 => {
                put(&mut image, TABLE_AT + (number * 2 + u64::from(side)) * ENTRY + value % 4 * 8, value >> 8)
            }
            3 => put(&mut image, PLACES_AT, value & 0xffff),
            4 => put(&mut image, EPOCH_AT, value),
            _ => put(&mut image, at * 8, value),
        }
    }
    if data.first().is_none_or(|first| *first < 250) {
        put(&mut image, MAGIC_AT, MAGIC);
        put(&mut image, LAYOUT_AT, LAYOUT);
    }
    let Ok((recovery, found)) = Recovery::open(memory(&image)) else { return };
    let read: usize = found.objects.iter().map(|object| object.bytes.len()).sum();
    assert!(read <= image.len(), "no byte is two objects'");
    let mut blocks = Vec::new();
    for place in places.chunks_exact(8) {
        let word = |at: usize| u32::from_le_bytes(place[at..at + 4].try_into().unwrap_or_default());
        let place = Place { offset: u64::from(word(0)), capacity: word(4) & 0xf_ffff, len: word(4) >> 12 };
        blocks.extend(recovery.adopt(place).filter(|block| block.append(1, |bytes| bytes.fill(0xff))));
    }
    let store = recovery.finish();
    // What is put now changes nothing of what there was.
    let held: Vec<_> = blocks.iter().map(|block| block.bytes().to_vec()).collect();
    let news: Vec<_> = (0..8).filter_map(|_| store.add()).collect();
    for (len, id) in (0..).step_by(700).zip(&news) {
        store.put(*id, 2, &vec![0xee; len]);
    }
    found.objects.iter().step_by(2).for_each(|object| store.remove(object.id));
    store.commit();
    assert!(blocks.iter().zip(&held).all(|(block, held)| block.bytes() == *held));
    // And whoever dies now leaves just that.
    let stays = found.objects.iter().skip(1).step_by(2);
    let Ok((_, found)) = Recovery::open(memory(&self::image(&store))) else { panic!("it was written by us") };
    assert_eq!(found.broken, 0);
    assert!(stays.into_iter().all(|object| found.objects.contains(object)));
}

fn put(image: &mut [u8], at: u64, value: u64) {
    if let Some(word) = usize::try_from(at).ok().and_then(|at| image.get_mut(at..at + 8)) {
        word.copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 500 }, ..ProptestConfig::default() })]

        #[test]
        fn a_port_survives_any_memory(data in vec(any::<u8>(), 0..600)) {
            super::port_memory(&data);
        }
    }
}
