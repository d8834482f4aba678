//! Histories that are cut between any two stores, as a death cuts them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::{Memory, Place, Recovery, RecoveryError, Store};

/// Bytes of memory beside the table.
const ROOM: usize = 512 * 1024;

/// Counts the stores that whoever recovers could see, and keeps what is there before one of them.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    passed: Cell<usize>,
    /// Before which the memory is kept; none of 0.
    cut: Cell<usize>,
    kept: RefCell<Option<Vec<u8>>>,
}

impl Steps {
    pub(crate) fn pass(&self, memory: &Memory) {
        self.passed.set(self.passed.get() + 1);
        if self.passed.get() == self.cut.get() {
            self.kept.replace(memory.read(0, memory.len() as usize));
        }
    }
}

fn image(store: &Store) -> Vec<u8> {
    let memory = &store.0.memory;
    memory.read(0, memory.len() as usize).unwrap()
}

fn memory(image: &[u8]) -> Memory {
    let memory = Memory::heap(image.len());
    assert!(memory.write(0, image));
    memory
}

type Objects = BTreeMap<u64, (u32, Vec<u8>)>;

fn recover(image: &[u8]) -> (Store, Objects) {
    let (recovery, found) = Recovery::open(memory(image)).map_err(|(error, _)| error).unwrap();
    assert_eq!(found.broken, 0);
    let objects = found.objects.into_iter().map(|object| (object.id.number(), (object.kind, object.bytes)));
    let objects = objects.collect();
    (recovery.finish(), objects)
}

#[derive(Clone, Debug)]
enum Action {
    Put { object: usize, len: usize, byte: u8 },
    Remove { object: usize },
    Commit,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0..4_usize, 0..900_usize, any::<u8>()).prop_map(|(object, len, byte)| Action::Put { object, len, byte }),
        1 => (0..4_usize).prop_map(|object| Action::Remove { object }),
        2 => Just(Action::Commit),
    ]
}

/// Plays `actions` on `store`; what is in force after each commit, beginning with `objects`.
fn play(store: &Store, actions: &[Action], objects: Objects) -> Vec<Objects> {
    let mut ids: [Option<crate::Id>; 4] = [None; 4];
    let (mut staged, mut history) = (objects.clone(), vec![objects]);
    for action in actions {
        match action {
            Action::Put { object, len, byte } => {
                let id = *ids[*object].get_or_insert_with(|| store.add().unwrap());
                assert!(store.put(id, u32::from(*byte), &vec![*byte; *len]));
                staged.insert(id.number(), (u32::from(*byte), vec![*byte; *len]));
            }
            Action::Remove { object } => {
                if let Some(id) = ids[*object].take() {
                    store.remove(id);
                    staged.remove(&id.number());
                }
            }
            Action::Commit => {
                store.commit();
                history.push(staged.clone());
            }
        }
    }
    history
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn wherever_stores_are_cut_all_of_a_commit_is_there_or_nothing(actions in vec(action(), 1..24), again in vec(action(), 1..8)) {
        let whole = Store::private(ROOM);
        let begin = whole.0.steps.passed.get();
        let history = play(&whole, &actions, Objects::new());
        let steps = whole.0.steps.passed.get();
        let mut reached = 0;
        for cut in begin + 1..=steps {
            let store = Store::private(ROOM);
            store.0.steps.cut.set(cut);
            play(&store, &actions, Objects::new());
            let kept = store.0.steps.kept.take().expect("the cut is one of the steps");
            let (after, found) = recover(&kept);
            let now = history.iter().enumerate().skip(reached).find(|(_, objects)| **objects == found);
            let Some((now, _)) = now else { panic!("cut {cut}: {found:?} is none of {history:?}") };
            prop_assert!(now <= reached + 1 || history[reached..now].windows(2).all(|pair| pair[0] == pair[1]) );
            reached = now;
            // What the dead process had staged never becomes true, and what goes on is as good as new.
            let on = play(&after, &again, found);
            prop_assert_eq!(&recover(&image(&after)).1, on.last().unwrap());
        }
    }

    #[test]
    fn whatever_stands_there_is_read_without_harm(bytes in vec(any::<(u16, u64)>(), 0..64), place in any::<(u64, u32, u32)>()) {
        let store = Store::private(ROOM);
        for byte in 0..8 {
            assert!(store.put(store.add().unwrap(), 1, &[byte; 100]));
        }
        store.commit();
        let mut image = image(&store);
        for (at, word) in bytes {
            // The layout's own words are of interest, and bytes of objects.
            let at = usize::from(at) % (image.len() / 8) * 8;
            if at >= 16 {
                image[at..at + 8].copy_from_slice(&word.to_le_bytes());
            }
        }
        if let Ok((recovery, found)) = Recovery::open(memory(&image)) {
            assert!(found.objects.len() <= 8192);
            let (offset, capacity, len) = place;
            let place = Place { offset: offset % (1 << 18), capacity: capacity % (1 << 17), len: len % (1 << 17) };
            let block = recovery.adopt(place);
            if let Some(block) = &block {
                assert_eq!(block.bytes().len(), place.len());
                assert!(recovery.adopt(place).is_none(), "it has an owner");
            }
            let store = recovery.finish();
            let id = store.add();
            id.map(|id| store.put(id, 7, b"after"));
            store.commit();
        }
    }
}

#[test]
fn what_is_appended_behind_what_was_committed_does_not_exist_and_blocks_keep_their_bytes() {
    let store = Store::private(1 << 20);
    let block = store.block(1_000);
    assert!(block.append(3, |bytes| bytes.copy_from_slice(b"abc")));
    let place = block.place().unwrap();
    assert!(block.append(3, |bytes| bytes.copy_from_slice(b"def")));
    assert!(!block.append(1_000, |_| unreachable!("there is no room")));
    assert_eq!(block.bytes(), b"abcdef");
    let (recovery, _) = Recovery::open(memory(&image(&store))).unwrap();
    let adopted = recovery.adopt(place).unwrap();
    assert_eq!((adopted.bytes(), adopted.capacity()), (&b"abc"[..], 1_000));
    let after = recovery.finish();
    let other = after.block(1_000);
    assert!(other.append(6, |bytes| bytes.copy_from_slice(b"other!")));
    assert!(adopted.append(1, |bytes| bytes.fill(b'x')));
    assert_eq!((adopted.bytes(), other.bytes()), (&b"abcx"[..], &b"other!"[..]));
}

#[test]
fn what_is_given_up_is_not_used_again_before_the_next_commit() {
    let store = Store::private(ROOM);
    let id = store.add().unwrap();
    let block = store.block(5_000);
    assert!(block.append(5_000, |bytes| bytes.fill(1)));
    let place = block.place().unwrap();
    assert!(store.put(id, 0, b"names it"));
    store.commit();
    drop(block);
    let next = store.block(5_000);
    assert_ne!(next.place().unwrap().offset, place.offset);
    store.remove(id);
    store.commit();
    assert_eq!(store.block(5_000).place().unwrap().offset, place.offset);
}

#[test]
fn a_store_that_is_full_removes_what_it_cannot_keep_and_goes_on() {
    let store = Store::private(64 * 1024);
    let id = store.add().unwrap();
    assert!(store.put(id, 1, &[1; 500]));
    store.commit();
    assert!(!store.put(id, 1, &[2; 1 << 20]));
    store.commit();
    assert!(recover(&image(&store)).1.is_empty());
    let block = store.block(1 << 20);
    assert!(block.append(1 << 20, |bytes| bytes.fill(3)));
    assert_eq!((block.place(), block.bytes().len()), (None, 1 << 20));
    assert!(store.put(id, 1, &[3; 500]) && store.used() < 64 * 1024);
}

#[test]
fn memory_is_used_again_for_ever() {
    let store = Store::private(ROOM);
    let ids = [0; 50].map(|_| store.add().unwrap());
    for round in 0..2_000_usize {
        for (index, id) in ids.iter().enumerate() {
            let len = (round * 7 + index * 31) % 1_500;
            assert!(store.put(*id, 0, &vec![round as u8; len]), "round {round}");
        }
        let block = store.block(40_000);
        assert!(block.place().is_some(), "round {round}");
        store.commit();
    }
}

#[test]
fn a_mapped_file_is_found_again_with_words_and_scratch() {
    let file = Memory::file("test", 1 << 30).unwrap();
    let store = Store::create(Memory::map(file.as_fd()).unwrap());
    let id = store.add().unwrap();
    let large = vec![7; 5 << 20];
    assert!(store.put(id, 9, &large));
    store.commit();
    store.set_word(3, 42);
    store.scratch().unwrap()[..4].copy_from_slice(b"read");
    assert!(store.scratch().is_none(), "it has an owner");
    drop(store);
    let (recovery, found) = Recovery::open(Memory::map(file.as_fd()).unwrap()).unwrap();
    assert_eq!((found.objects[0].kind, &found.objects[0].bytes), (9, &large));
    let store = recovery.finish();
    assert_eq!((store.word(3), &store.scratch().unwrap()[..4]), (42, &b"read"[..]));
    // What was large gives its memory back.
    let taken = || rustix::fs::fstat(&file).unwrap().st_blocks * 512;
    assert!(taken() > 5 << 20);
    store.remove(id);
    store.commit();
    store.put(id, 1, b"");
    store.commit();
    assert!(taken() < 1 << 20, "{}", taken());
}

#[test]
fn memory_of_another_layout_or_of_nobody_is_told_apart() {
    let open = |image: &[u8]| Recovery::open(memory(image)).map(|_| ()).map_err(|(error, _)| error);
    let mut image = image(&Store::private(ROOM));
    assert_eq!(open(&image), Ok(()));
    image[8] = 99;
    assert_eq!(open(&image), Err(RecoveryError::Layout(99)));
    image[0] = 0;
    assert_eq!(open(&image), Err(RecoveryError::None));
}

#[test]
fn what_is_free_after_a_death_overlaps_nothing_that_is_used() {
    let mut used = std::collections::BTreeMap::new();
    // From one page into the next, and another beside it.
    for (from, to) in [(4096 + 64, 4096 + 128), (4096 + 3_968, 8192 + 256), (20_480, 40_960)] {
        used.insert(from, to);
    }
    let alloc = crate::alloc::Alloc::beside(4096, 1 << 20, &used);
    let gaps: Vec<_> = alloc.gaps().map(|gap| (gap.offset, gap.offset + gap.len)).collect();
    assert_eq!(gaps, [(12_288, 20_480), (40_960, 1 << 20)]);
}
