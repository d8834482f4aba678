//! What it costs to write an object down, and to make it true.

use divan::Bencher;
use shm::Store;

fn main() {
    divan::main();
}

/// A store in which 3000 others are.
fn store() -> Store {
    let store = Store::private(16 << 20);
    for _ in 0..3_000 {
        let id = store.add().expect("there is room");
        assert!(store.put(id, 1, &[1; 300]));
    }
    store.commit();
    store
}

/// The record of a connection that plays, of one that publishes, and of a stream.
#[divan::bench(args = [300, 1_024, 5_000])]
fn put_and_commit(bencher: Bencher<'_, '_>, len: usize) {
    let store = store();
    let (id, record) = (store.add().expect("there is room"), vec![7; len]);
    bencher.bench_local(move || {
        assert!(store.put(id, 1, &record));
        store.commit();
    });
}

/// All that is written down before a read.
#[divan::bench]
fn set_word(bencher: Bencher<'_, '_>) {
    let store = store();
    bencher.bench_local(move || store.set_word(0, 7));
}
