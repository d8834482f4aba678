//! Histories that are cut between any two stores, as a death cuts them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::layout::{EPOCH_AT, PLACES_AT};
use crate::{Block, Id, Memory, Place, Recovery, RecoveryError, Store};

/// Random histories of each kind; under Miri each takes its time.
pub(crate) const CASES: u32 = if cfg!(miri) { 1 } else { 32 };
/// Bytes of memory beside the table.
const ROOM: usize = if cfg!(miri) { 200 } else { 400 } * 1024;
/// The kind of objects that name a block.
const BLOCK: u32 = 1_000;

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

/// A store in memory that others have had before.
fn store() -> Store {
    Store::create(memory(&vec![0xdb; 36 * 1024 + ROOM]))
}

fn image(store: &Store) -> Vec<u8> {
    let memory = &store.0.memory;
    memory.read(0, memory.len() as usize).unwrap()
}

fn memory(image: &[u8]) -> Memory {
    let memory = Memory::heap(image.len());
    assert!(memory.write(0, image));
    memory.steps.passed.set(0);
    memory
}

/// By their numbers: the kind and the bytes of those that are objects alone, [`BLOCK`] and the block's bytes of others.
type Objects = BTreeMap<u64, (u32, Vec<u8>)>;

/// The store of an image, its objects and their blocks.
fn recover(image: &[u8]) -> (Store, Objects, Vec<Block>) {
    recover_in(memory(image))
}

fn recover_in(memory: Memory) -> (Store, Objects, Vec<Block>) {
    let (recovery, found) = Recovery::open(memory).map_err(|(error, _)| error).unwrap();
    assert_eq!(found.broken, 0);
    let mut blocks = Vec::new();
    let objects = found.objects.into_iter().map(|object| {
        let mut bytes = object.bytes;
        if object.kind == BLOCK {
            let block = recovery.adopt(place(&bytes)).expect("its bytes are nobody else's");
            bytes = block.bytes().to_vec();
            blocks.push(block);
        }
        (object.id.number(), (object.kind, bytes))
    });
    let objects = objects.collect();
    (recovery.finish(), objects, blocks)
}

fn place(bytes: &[u8]) -> Place {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    Place { offset: u64::from(word(0)), capacity: word(4), len: word(8) }
}

fn put_place(store: &Store, id: Id, block: &Block) {
    let Place { offset, capacity, len } = block.place().unwrap();
    let bytes = [offset as u32, capacity, len].map(u32::to_le_bytes).concat();
    assert!(store.put(id, BLOCK, &bytes));
}

#[derive(Clone, Debug)]
enum Action {
    Put {
        object: usize,
        len: usize,
        byte: u8,
    },
    /// The object names a block of its own from now on.
    Begin {
        object: usize,
        len: usize,
        byte: u8,
    },
    /// Its block has more; whether the object says so.
    Append {
        object: usize,
        len: usize,
        byte: u8,
        is_told: bool,
    },
    Remove {
        object: usize,
    },
    Commit,
}

fn action() -> impl Strategy<Value = Action> {
    let bytes = || (0..4_usize, 0..900_usize, any::<u8>());
    prop_oneof![
        4 => bytes().prop_map(|(object, len, byte)| Action::Put { object, len, byte }),
        2 => bytes().prop_map(|(object, len, byte)| Action::Begin { object, len, byte }),
        3 => (bytes(), any::<bool>()).prop_map(|((object, len, byte), is_told)| Action::Append { object, len, byte, is_told }),
        2 => (0..4_usize).prop_map(|object| Action::Remove { object }),
        3 => Just(Action::Commit),
    ]
}

/// Plays `actions` on `store`; what is in force after each commit, beginning with `objects`.
fn play(store: &Store, actions: &[Action], objects: Objects) -> Vec<Objects> {
    let mut ids: [Option<Id>; 4] = [None; 4];
    let mut blocks: [Option<Block>; 4] = [const { None }; 4];
    let (mut staged, mut history) = (objects.clone(), vec![objects]);
    for action in actions {
        match action {
            Action::Put { object, len, byte } => {
                let id = *ids[*object].get_or_insert_with(|| store.add().unwrap());
                assert!(store.put(id, u32::from(*byte), &vec![*byte; *len]));
                blocks[*object] = None;
                staged.insert(id.number(), (u32::from(*byte), vec![*byte; *len]));
            }
            Action::Begin { object, len, byte } => {
                let id = *ids[*object].get_or_insert_with(|| store.add().unwrap());
                let block = store.block(len * 7);
                assert!(block.append(*len, |bytes| bytes.fill(*byte)));
                put_place(store, id, &block);
                blocks[*object] = Some(block);
                staged.insert(id.number(), (BLOCK, vec![*byte; *len]));
            }
            Action::Append { object, len, byte, is_told } => {
                if let Some((id, block)) = ids[*object].zip(blocks[*object].as_ref())
                    && block.append(*len, |bytes| bytes.fill(*byte))
                    && *is_told
                {
                    put_place(store, id, block);
                    staged.insert(id.number(), (BLOCK, block.bytes().to_vec()));
                }
            }
            Action::Remove { object } => {
                if let Some(id) = ids[*object].take() {
                    store.remove(id);
                    blocks[*object] = None;
                    staged.remove(&id.number());
                }
            }
            Action::Commit => {
                store.commit();
                history.push(staged.clone());
            }
        }
    }
    // Those that are still named are not to be given up.
    blocks.into_iter().flatten().for_each(std::mem::forget);
    history
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, ..ProptestConfig::default() })]

    #[test]
    fn wherever_stores_are_cut_all_of_a_commit_is_there_or_nothing(actions in vec(action(), 1..if cfg!(miri) { 6 } else { 24 }), again in vec(action(), 1..if cfg!(miri) { 3 } else { 8 })) {
        let whole = store();
        let begin = whole.0.memory.steps.passed.get();
        let history = play(&whole, &actions, Objects::new());
        let steps = whole.0.memory.steps.passed.get();
        let mut reached = 0;
        for cut in begin + 1..=steps {
            let store = store();
            store.0.memory.steps.cut.set(cut);
            play(&store, &actions, Objects::new());
            let kept = store.0.memory.steps.kept.take().expect("the cut is one of the steps");
            let (after, found, _blocks) = recover(&kept);
            let now = history.iter().enumerate().skip(reached).find(|(_, objects)| **objects == found);
            let Some((now, _)) = now else { panic!("cut {cut}: {found:?} is none of {history:?}") };
            prop_assert!(now <= reached + 1 || history[reached..now].windows(2).all(|pair| pair[0] == pair[1]) );
            reached = now;
            // Whoever recovers dies too, at each of its own stores.
            for cut in 1..=after.0.memory.steps.passed.get() {
                let memory = memory(&kept);
                memory.steps.cut.set(cut);
                let (second, ..) = recover_in(memory);
                let kept = second.0.memory.steps.kept.take().expect("it has as many");
                prop_assert_eq!(&recover(&kept).1, &found);
            }
            // What the dead process had staged never becomes true, and what goes on is as good as new.
            let on = play(&after, &again, found);
            prop_assert_eq!(&recover(&image(&after)).1, on.last().unwrap());
        }
    }

    #[test]
    fn whatever_stands_there_is_read_without_harm(bytes in vec(any::<(u16, u64)>(), 0..64), place in any::<(u64, u32, u32)>()) {
        let store = store();
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

/// At how many of the cuts of `write`, and of its end, an object is neither what it was nor what it is to be.
fn faults(write: impl Fn(&Store, Id, &[u8])) -> usize {
    let (before, after) = (vec![1; 500], vec![2; 500]);
    let run = |cut| {
        let store = store();
        let id = store.add().unwrap();
        assert!(store.put(id, 1, &before));
        store.commit();
        let begin = store.0.memory.steps.passed.get();
        store.0.memory.steps.cut.set(begin + cut);
        write(&store, id, &after);
        (store.0.memory.steps.passed.get() - begin, store.0.memory.steps.kept.take(), image(&store))
    };
    let is_one_of = |image: &[u8], wanted: &[&Vec<u8>]| {
        let (_, found) = Recovery::open(memory(image)).map_err(|(error, _)| error).unwrap();
        found.broken == 0 && matches!(&found.objects[..], [it] if wanted.contains(&&it.bytes))
    };
    let (steps, _, end) = run(0);
    let cut = (1..=steps).filter(|cut| !is_one_of(&run(*cut).1.unwrap(), &[&before, &after])).count();
    cut + usize::from(!is_one_of(&end, &[&after]))
}

#[test]
fn a_commit_that_is_left_out_and_a_flip_before_the_bytes_are_in_are_noticed() {
    let put = |store: &Store, id, bytes: &[u8]| assert!(store.put(id, 1, bytes));
    assert_eq!(
        faults(|store, id, bytes| {
            put(store, id, bytes);
            store.commit();
        }),
        0
    );
    assert_eq!(faults(put), 1);
    assert!(faults(|store, id, bytes| store.put_early(id, 1, bytes, || ())) > 0);
}

/// A history with a bit of everything, and its image: its second object was another before.
fn an_image() -> Vec<u8> {
    let store = store();
    for byte in [1, 2, 3] {
        store.put(store.add().unwrap(), 7, &[byte; 100]);
        store.commit();
    }
    image(&store)
}

fn set(image: &mut [u8], at: u64, value: u64) {
    image[at as usize..][..8].copy_from_slice(&value.to_le_bytes());
}

/// Where the entry in force of the object with `byte` stands: these objects were put once, on the second side.
fn entry(byte: u64) -> u64 {
    crate::layout::TABLE_AT + (2 * (byte - 1) + 1) * crate::layout::ENTRY
}

fn get(image: &[u8], at: u64) -> u64 {
    u64::from_le_bytes(image[at as usize..][..8].try_into().unwrap())
}

#[test]
fn each_part_of_an_entry_that_is_not_as_it_was_written_costs_its_object_alone_and_for_good() {
    for part in 0..4 {
        let mut image = an_image();
        let at = entry(2) + 8 * part;
        // A later epoch is that of a commit that never was: the object is none, and not broken.
        let wrong = if part == 0 { get(&image, at) - 1 } else { get(&image, at) ^ 64 };
        set(&mut image, at, wrong);
        let (recovery, found) = Recovery::open(memory(&image)).unwrap();
        assert_eq!((found.broken, found.objects.len()), (1, 2), "part {part}");
        let store = recovery.finish();
        // What it had is another's.
        assert_eq!(store.add().unwrap().number(), 2);
        let (recovery, found) = Recovery::open(memory(&self::image(&store))).unwrap();
        assert_eq!((found.broken, found.objects.len()), (0, 2), "part {part}");
        drop(recovery);
    }
}

#[test]
fn however_many_objects_name_the_same_bytes_one_has_them() {
    let mut image = an_image();
    let first: Vec<u64> = (0..4).map(|word| get(&image, entry(1) + 8 * word)).collect();
    for other in [2, 3] {
        (0..4).for_each(|word| set(&mut image, entry(other) + 8 * word, first[word as usize]));
    }
    let (_, found) = Recovery::open(memory(&image)).unwrap();
    assert_eq!((found.broken, found.objects.len()), (2, 1));
}

#[test]
fn a_table_that_cannot_be_right_is_told() {
    let with = |at, value| {
        let mut image = an_image();
        set(&mut image, at, value);
        Recovery::open(memory(&image)).map(|_| ()).map_err(|(error, _)| error)
    };
    assert_eq!(with(PLACES_AT, 1 << 20), Err(RecoveryError::Table));
    assert_eq!(with(PLACES_AT, u64::MAX), Err(RecoveryError::Table));
    assert_eq!(with(EPOCH_AT, 0), Err(RecoveryError::Table));
    assert_eq!(with(EPOCH_AT, u64::MAX), Err(RecoveryError::Table), "there is one to come");
    assert_eq!(with(EPOCH_AT, 4), Ok(()));
}

#[test]
fn a_number_is_its_owners_until_it_removes_it_and_is_given_to_one_other() {
    let store = store();
    let [one, other] = [0, 1].map(|_| store.add().unwrap());
    store.remove(one);
    store.remove(one);
    store.commit();
    store.remove(one);
    store.commit();
    assert_eq!(store.add(), Some(one));
    assert_ne!(store.add(), Some(one), "it has an owner");
    // One that could not be put has its number still.
    assert!(!store.put(other, 0, &[0; ROOM]));
    store.commit();
    assert_ne!(store.add(), Some(other));
    assert!(store.put(other, 0, b"it is back"));
    // One that is removed is not there any more for whoever has kept its number.
    store.remove(other);
    assert!(!store.put(other, 0, b"too late"));
    store.commit();
    assert!(!store.put(other, 0, b"too late"));
    store.commit();
    assert!(recover(&image(&store)).1.is_empty());
}

#[test]
fn what_is_removed_while_it_is_found_out_what_there_is_is_free_afterwards() {
    let (recovery, found) = Recovery::open(memory(&an_image())).unwrap();
    assert!(!recovery.store().put(found.objects[0].id, 7, b"not before it begins"));
    found.objects.iter().for_each(|object| recovery.store().remove(object.id));
    recovery.store().commit();
    let store = recovery.finish();
    assert!(store.used() > 0);
    store.put(store.add().unwrap(), 7, &[4; 100]);
    store.commit();
    assert_eq!((store.used(), recover(&image(&store)).1.len()), (128, 1));
}

#[test]
fn a_filler_that_panics_or_appends_itself_leaves_the_block_as_it_was() {
    let store = store();
    let block = store.block(100);
    let panics = || {
        block.append(10, |bytes| {
            bytes.fill(1);
            panic!("as a test")
        })
    };
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    assert!(block.append(10, |bytes| {
        assert!(!block.append(10, |_| unreachable!("the same bytes are being filled")));
        bytes.fill(2);
    }));
    // What is there may be read while more is appended.
    let front = block.bytes();
    assert!(block.append(10, |bytes| bytes.copy_from_slice(front)));
    assert_eq!((front, block.bytes()), (&[2; 10][..], &[2; 20][..]));
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
    assert!(!store.put(id, 1, &[2; 1 << 20]), "there is no room");
    store.commit();
    assert!(recover(&image(&store)).1.is_empty());
    let block = store.block(1 << 20);
    assert!(block.append(1 << 20, |bytes| bytes.fill(3)));
    assert_eq!((block.place(), block.bytes().len()), (None, 1 << 20));
    assert!(store.put(id, 1, &[3; 500]) && store.used() < 64 * 1024);
}

#[test]
fn memory_is_used_again_for_ever() {
    let store = Store::private(512 * 1024);
    // Under Miri each takes its time.
    let ids: Vec<_> = (0..if cfg!(miri) { 5 } else { 50 }).map(|_| store.add().unwrap()).collect();
    for round in 0..if cfg!(miri) { 2 } else { 2_000_usize } {
        for (index, id) in ids.iter().enumerate() {
            let len = (round * 7 + index * 31) % 1_500;
            assert!(store.put(*id, 0, &vec![round as u8; len]), "round {round}");
        }
        let block = store.block(40_000);
        assert!(block.place().is_some(), "round {round}");
        store.commit();
    }
}

/// Miri maps no files.
#[cfg(not(miri))]
#[expect(unsafe_code, reason = "maps a file")]
fn map(file: &std::os::fd::OwnedFd) -> Memory {
    use std::os::fd::AsFd as _;
    // SAFETY: nobody but the one store writes to it.
    unsafe { Memory::map(file.as_fd()) }.unwrap()
}

#[cfg(not(miri))]
#[test]
#[expect(unsafe_code, reason = "maps a file")]
fn a_file_that_might_be_cut_while_it_is_mapped_is_refused() {
    use std::os::fd::AsFd as _;
    let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, 1 << 20).unwrap();
    // SAFETY: nobody writes to it.
    assert_eq!(unsafe { Memory::map(file.as_fd()) }.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    let file = Memory::file("test", 1 << 20).unwrap();
    rustix::fs::ftruncate(&file, 1 << 10).unwrap_err();
}

#[cfg(not(miri))]
#[test]
fn a_mapped_file_is_found_again_with_words_and_scratch() {
    let file = Memory::file("test", 1 << 30).unwrap();
    let store = Store::create(map(&file));
    let id = store.add().unwrap();
    let large = vec![7; 5 << 20];
    assert!(store.put(id, 9, &large));
    store.commit();
    store.set_word(3, 42);
    store.scratch().unwrap()[..4].copy_from_slice(b"read");
    assert!(store.scratch().is_none(), "it has an owner");
    drop(store);
    let (recovery, found) = Recovery::open(map(&file)).unwrap();
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
fn what_is_free_after_a_death_is_all_but_what_is_used() {
    let mut used = BTreeMap::new();
    // Three of one slab, from one page into the next; one of two pages beside it; one of a slab that has no room for all of it.
    for (from, to) in [
        (16_384 + 640, 16_384 + 1_280),
        (16_384 + 1_920, 16_384 + 2_560),
        (16_384 + 3_840, 20_480 + 384),
        (32_768, 40_960),
        (49_152, 49_792),
    ] {
        used.insert(from, to);
    }
    let mut alloc = crate::alloc::Alloc::beside(4_096, 61_440, &used);
    let gaps: Vec<_> = alloc.gaps().map(|gap| (gap.offset, gap.offset + gap.len)).collect();
    assert_eq!(gaps, [(4_096, 16_384), (40_960, 49_152), (53_248, 61_440)]);
    assert_eq!(alloc.take(640), None, "there is room for no other slab");
    alloc.leave(crate::alloc::Extent { offset: 16_384 + 640, len: 640 });
    alloc.settle(|_| unreachable!("two are left"));
    let pieces: Vec<_> = std::iter::from_fn(|| Some(alloc.take(640)?.offset)).collect();
    let expected = [0, 1, 2, 4, 5, 7, 8].map(|index| 16_384 + 640 * index);
    assert_eq!((pieces.len(), &pieces[..7]), (23, &expected[..]));
}

/// Players, the bytes of each one's record, and a stream's media, on a file; they come, go and change, and all is put anew behind a death.
#[cfg(not(miri))]
struct Port {
    file: std::os::fd::OwnedFd,
    store: Store,
    records: Vec<Id>,
    media: std::collections::VecDeque<(Id, Block)>,
    seed: u64,
}

#[cfg(not(miri))]
impl Port {
    const SEGMENT: usize = 64 << 10;

    fn new(players: usize) -> Self {
        let file = Memory::file("test", 1 << 30).unwrap();
        let store = Store::create(map(&file));
        let mut this = Self { file, store, records: Vec::new(), media: Default::default(), seed: 1 };
        (0..players).for_each(|_| this.come());
        this
    }

    fn below(&mut self, end: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) as usize % end
    }

    fn put(&mut self, id: Id) {
        let len = 150 + self.below(220);
        assert!(self.store.put(id, 1, &vec![1; len]));
    }

    fn come(&mut self) {
        let id = self.store.add().unwrap();
        self.put(id);
        self.store.commit();
        self.records.push(id);
    }

    fn go(&mut self) {
        let index = self.below(self.records.len());
        self.store.remove(self.records.swap_remove(index));
        self.store.commit();
    }

    fn go_on(&mut self) {
        for _ in 0..300 {
            match self.below(10) {
                0 => {
                    self.go();
                    self.come();
                }
                1 => {
                    let block = self.store.block(Self::SEGMENT);
                    assert!(block.append(Self::SEGMENT, |bytes| bytes.fill(1)));
                    let id = self.store.add().unwrap();
                    put_place(&self.store, id, &block);
                    self.media.push_back((id, block));
                    if self.media.len() > 4 {
                        self.media.pop_front().into_iter().for_each(|(id, _)| self.store.remove(id));
                    }
                }
                _ => {
                    let index = self.below(self.records.len());
                    self.put(self.records[index]);
                }
            }
            self.store.commit();
        }
    }

    fn die(&mut self) {
        // Nothing of the dead is dropped: it ran no code.
        let (recovery, found) = Recovery::open(map(&self.file)).unwrap();
        std::mem::take(&mut self.media).into_iter().for_each(std::mem::forget);
        for object in found.objects.iter().filter(|object| object.kind == BLOCK) {
            self.media.push_back((object.id, recovery.adopt(place(&object.bytes)).unwrap()));
        }
        std::mem::forget(std::mem::replace(&mut self.store, recovery.finish()));
        for index in 0..self.records.len() {
            self.put(self.records[index]);
        }
        self.store.commit();
    }

    /// Bytes of the file that exist.
    fn taken(&self) -> i64 {
        rustix::fs::fstat(&self.file).unwrap().st_blocks * 512
    }
}

#[cfg(not(miri))]
#[test]
fn neither_deaths_nor_whoever_comes_and_goes_makes_a_port_grow() {
    let mut port = Port::new(2_000);
    port.go_on();
    let before = port.taken();
    for death in 0..80 {
        port.die();
        port.go_on();
        let now = port.taken();
        assert!(now < before * 9 / 8, "{before} → {now} behind {death} deaths");
    }
    // Nor is held what once was needed.
    (0..1_990).for_each(|_| port.go());
    assert!(port.taken() < before * 3 / 4, "{before} → {}", port.taken());
}
