//! The results as a person reads them.

use std::fmt::Write as _;

use bench::Quantiles;

use crate::measure::Cell;

/// The players' share of their core from which they delay what they measure, percent.
const BUSY: f64 = 90.0;

pub(crate) fn summary(cell: &Cell) -> String {
    format!(
        "  CPU {:.1} %, waited {:.1} %, {:.1} KiB per connection, first keyframe {} ms, of ordinary clients {} ms, latency {} ms, load generator {:.0} %",
        cell.usage.cpu(),
        cell.usage.waited,
        cell.kib_per_connection,
        quantiles(cell.first_keyframe_ms),
        quantiles(cell.ordinary_keyframe_ms),
        quantiles(cell.latency_ms),
        cell.load.generator_cpu_percent.unwrap_or_default()
    )
}

/// A table of all cells, a row each.
pub(crate) fn markdown(cells: &[Cell]) -> String {
    let mut text = String::from(
        "| players | server | merge | CPU user | CPU sys | waited | CPU | ÷ send loop | RSS MiB | KiB/connection | first keyframe p50 / p99 ms | of ordinary clients | latency p50 / p99 ms | loop lag p99 / max ms | lost, stalls | players' CPU |\n\
         | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for cell in cells {
        let usage = &cell.usage;
        let total = match usage {
            usage if usage.is_saturated() => "saturated".to_owned(),
            usage if usage.is_disturbed() => format!("{:.1} % (disturbed)", usage.cpu()),
            usage => format!("{:.1} %", usage.cpu()),
        };
        let players = match cell.connected {
            connected if connected < cell.players => format!("{} ({connected} taken)", cell.row),
            _ => cell.row.to_owned(),
        };
        let lag = cell.loop_lag_ms.map_or_else(|| "-".to_owned(), |[p99, max]| format!("{p99} / {max}"));
        // Its own figures, the times, are doubtful then.
        let players_cpu = match cell.load.generator_cpu_percent.unwrap_or_default() {
            cpu if cpu >= BUSY => format!("{cpu:.0} % (busy)"),
            cpu => format!("{cpu:.0} %"),
        };
        let lost: u64 = cell.load.refused.values().chain(cell.load.lost.values()).sum();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.1} % | {:.1} % | {:.1} % | {total} | {} | {:.0} | {:.1} | {} | {} | {} | {lag} | {lost}, {} | {players_cpu} |",
            players,
            cell.server,
            cell.merge.name(),
            usage.user,
            usage.system,
            usage.waited,
            ratio(cell, cells),
            cell.rss_kib as f64 / 1024.0,
            cell.kib_per_connection,
            quantiles(cell.first_keyframe_ms),
            quantiles(cell.ordinary_keyframe_ms),
            quantiles(cell.latency_ms),
            cell.load.stalls,
        );
    }
    text
}

/// CPU as a multiple of that of the send loop that holds back as long, in the same row.
fn ratio(cell: &Cell, cells: &[Cell]) -> String {
    let base = cells
        .iter()
        .find(|base| base.server == "loop" && base.row == cell.row && base.merge == cell.merge)
        .map(|base| &base.usage)
        .filter(|base| base.is_comparable() && cell.usage.is_comparable() && base.cpu() > 0.0);
    base.map_or_else(|| "-".to_owned(), |base| format!("{:.2}", cell.usage.cpu() / base.cpu()))
}

fn quantiles(quantiles: Option<Quantiles>) -> String {
    quantiles.map_or_else(
        || "-".to_owned(),
        |Quantiles { p50, p99, .. }| format!("{} / {}", short(p50), short(p99)),
    )
}

fn short(ms: f64) -> String {
    if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}
