//! Cost of the data plane without sockets: appending a frame to the log, and one pass over caught-up players.

use divan::{Bencher, counter::ItemsCount};
use worker::internals::Fanout;

fn main() {
    divan::main();
}

/// One frame of the guide's stream, 900 bytes.
#[divan::bench]
fn append(bencher: Bencher<'_, '_>) {
    let mut fanout = Fanout::new(0);
    bencher.bench_local(move || fanout.append(900));
}

/// One frame to each player; the sends cost nothing here, so this is what is added to the system call.
#[divan::bench(args = [100, 1_000, 9_000])]
fn pass(bencher: Bencher<'_, '_>, players: usize) {
    let mut fanout = Fanout::new(players);
    fanout.append(900);
    fanout.pass();
    bencher.counter(ItemsCount::new(players)).bench_local(move || {
        fanout.append(900);
        fanout.pass()
    });
}
