//! What a plan means for those who are connected, and which ports it is about.

use std::path::PathBuf;
use std::time::Instant;

use cluster::plan::{Action, Change, HostPart};
use cluster::{Cluster, EndOfStream, Port, ProcessSpec, Role, UnitId};
use control::api::Apply;
use control::{Code, Error};

use super::departure::Then;
use super::job::Job;
use super::member::Member;
use super::plan::{compare, compare_specs};
use super::reconciler::Reconciler;

/// The ports of a plan, by what is done to them.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Started at once.
    pub(super) added: Vec<UnitId>,
    /// Started when those are gone that have their addresses.
    pub(super) late: Vec<UnitId>,
    /// Stopped: edges, then origins.
    pub(super) removed: Vec<UnitId>,
    /// Stopped, and started elsewhere.
    pub(super) moved: Vec<UnitId>,
    /// Given new values.
    pub(super) told: Vec<UnitId>,
    /// Those among them that were leaving, and stay.
    pub(super) kept: Vec<UnitId>,
    /// Those that have to leave before all is done.
    pub(super) awaited: Vec<UnitId>,
}

impl Moves {
    /// Those that are closed.
    pub(super) fn leaving(&self) -> Vec<UnitId> {
        self.removed.iter().chain(&self.moved).cloned().collect()
    }
}

/// The streams that end with a change, on whichever machine it is made.
pub(super) struct Ends<'a> {
    /// That of the encoder.
    encoder: Option<&'a str>,
    /// All.
    origin: bool,
}

impl<'a> Ends<'a> {
    pub(super) fn of(current: &'a Cluster, new: &Cluster) -> Self {
        let origins = |cluster: &Cluster| -> Vec<_> {
            let all = cluster.origins.iter().chain(&cluster.elsewhere);
            all.filter(|port| port.role == Role::Origin).map(|port| (port.id(), port.listen)).collect()
        };
        let origin = origins(current) != origins(new);
        let encoder = current.encoder.as_ref().filter(|_| origin || current.encoder != new.encoder);
        Self { encoder: encoder.map(|encoder| encoder.stream.as_str()), origin }
    }

    /// Whether there are any.
    pub(super) fn some(&self) -> bool {
        self.origin || self.encoder.is_some()
    }

    /// Whose change ends this one, if any does.
    fn by(&self, stream: &str) -> Option<Role> {
        if self.encoder == Some(stream) {
            return Some(Role::Encoder);
        }
        self.origin.then_some(Role::Origin)
    }
}

/// Whether not both can be bound.
fn overlap(a: &Port, b: &Port) -> bool {
    a.port == b.port && (a.listen == b.listen || a.listen.is_unspecified() || b.listen.is_unspecified())
}

impl Reconciler {
    /// What is done to each process to have `new` in force in place of `current`: as the two files say, but for ports that leave their
    /// places. One that is in the file again stays, which is a change of what it is told. One that nobody has consented to is taken out by
    /// this change, once more; any other goes on as it is.
    pub(super) fn changes(&self, current: &Cluster, new: &Cluster) -> Vec<Change> {
        let mut changes = compare(Some(current), new);
        for member in &self.members {
            let (Some(departure), ProcessSpec::Worker(spec)) = (&member.departure, &member.spec) else {
                continue;
            };
            let place = changes.iter().position(|change| change.unit == member.id);
            let port = new.ports().find(|port| port.id() == member.id);
            let change = match port.map(|port| compare_specs(spec, &new.worker_spec(port, PathBuf::new()))) {
                Some((Action::Restart, _)) if departure.then == Then::Moved && departure.consent => {
                    (Action::Nothing, Vec::new())
                }
                Some((Action::Restart, why)) => (Action::Restart, why),
                Some((_, mut why)) => {
                    why.insert(0, "it was leaving, and stays".to_owned());
                    (Action::Reconfigure, why)
                }
                None if departure.consent && place.is_none() => continue,
                None => (Action::Stop, vec!["removed from the file".to_owned()]),
            };
            let change = Change::new(member.id.clone(), change.0, change.1);
            match place.and_then(|place| changes.get_mut(place)) {
                Some(known) => *known = change,
                None => {
                    let encoder = changes.iter().position(|it| it.unit == UnitId::encoder());
                    changes.insert(encoder.unwrap_or(changes.len()), change);
                }
            }
        }
        changes
    }

    /// The ports of a plan, by what is done to them.
    pub(super) fn moves(&self, changes: &[Change], new: &Cluster) -> Moves {
        let mut moves = Moves::default();
        for Change { unit, action, .. } in changes.iter().filter(|it| it.unit != UnitId::encoder()) {
            match action {
                Action::Start => moves.added.push(unit.clone()),
                Action::Stop => moves.removed.push(unit.clone()),
                Action::Restart => moves.moved.push(unit.clone()),
                Action::Reconfigure => moves.told.push(unit.clone()),
                Action::Nothing | Action::Unknown => {}
            }
        }
        moves.removed.sort_by_key(|unit| unit.parts().0 == Role::Origin);
        let leaves = |member: &Member| member.departure.is_some();
        let is_kept = |id: &&UnitId| self.member(id).is_some_and(leaves);
        moves.kept = moves.told.iter().filter(is_kept).cloned().collect();
        let leaving = moves.leaving();
        let is_leaving =
            |it: &&Member| leaving.contains(&it.id) || leaves(it) && !moves.kept.contains(&it.id);
        let gone: Vec<&Member> = self.members.iter().filter(is_leaving).collect();
        let is_taken = |id: &UnitId| {
            let port = new.ports().find(|port| port.id() == *id);
            let mut ports = gone.iter().filter_map(|member| member.port.as_ref());
            port.is_some_and(|port| ports.any(|other| overlap(port, other)))
        };
        (moves.late, moves.added) = std::mem::take(&mut moves.added).into_iter().partition(is_taken);
        // Others go on by themselves, unless somebody needs their addresses.
        let is_awaited = |it: &&&Member| leaving.contains(&it.id) || !moves.late.is_empty();
        moves.awaited = gone.iter().filter(is_awaited).map(|member| member.id.clone()).collect();
        moves
    }

    /// What bringing `new` into force would do now.
    pub(super) fn host_part(&self, new: &Cluster, now: Instant) -> HostPart {
        let coming = self.job.as_ref().and_then(Job::coming);
        let mut changes = self.changes(coming.unwrap_or(&self.cluster), new);
        self.count(&mut changes, new, now);
        let (machine, busy) = (HostPart::HERE.to_owned(), self.queue.busy(now));
        HostPart { machine, generation: Some(self.generation), busy, changes }
    }

    /// Says of each change whom it disconnects.
    pub(super) fn count(&self, changes: &mut [Change], new: &Cluster, now: Instant) {
        for change in changes.iter_mut().filter(|it| matches!(it.action, Action::Stop | Action::Restart)) {
            let is_origin = change.unit.parts().0 == Role::Origin;
            // The encoder is connected to others, and nobody to it.
            let Some(member) = self.member(&change.unit).filter(|member| member.port.is_some()) else {
                continue;
            };
            if member.live.is_none() {
                continue;
            }
            let Some(report) = member.fresh_report(now) else {
                (change.players, change.encoders) = (None, if is_origin { None } else { Some(0) });
                continue;
            };
            change.players = Some(report.process.players);
            change.encoders = Some(self.encoders(member, report));
            let own = self.own_stream(member, report);
            let is_others = |stream: &str| is_origin && own != Some(stream);
            let used = report.streams.iter();
            let used = used.filter(|it| it.players > 0 || it.publishing && is_others(&it.stream));
            change.streams = used.map(|stream| stream.stream.clone()).collect();
        }
        self.count_ended(changes, new, now);
    }

    /// Says whom the end of a stream disconnects: the players of ports that stay, and close them then. It is told of the encoder or the
    /// origin; where that is on another machine, of the port.
    fn count_ended(&self, changes: &mut [Change], new: &Cluster, now: Instant) {
        let ends = Ends::of(&self.cluster, new);
        let stops = |change: &Change| matches!(change.action, Action::Stop | Action::Restart);
        let closing = new.ports().filter(|port| port.options.end_of_stream == EndOfStream::Close);
        for id in closing.filter(|_| ends.some()).map(Port::id) {
            let is_counted = changes.iter().any(|change| change.unit == id && stops(change));
            let Some(member) = self.member(&id).filter(|it| it.live.is_some() && !is_counted) else {
                continue;
            };
            let mut add = |by: Role, players: Option<u32>, stream: Option<&str>| {
                let cause = changes.iter().position(|it| it.unit.parts().0 == by && stops(it));
                let Some(place) = cause.or_else(|| changes.iter().position(|it| it.unit == id)) else {
                    return;
                };
                let Some(change) = changes.get_mut(place) else { return };
                change.players = change.players.zip(players).map(|(some, more)| some.saturating_add(more));
                if let Some(stream) = stream.filter(|name| !change.streams.iter().any(|it| it == name)) {
                    change.streams.push(stream.to_owned());
                }
            };
            let Some(report) = member.fresh_report(now) else {
                add(if ends.encoder.is_some() { Role::Encoder } else { Role::Origin }, None, None);
                continue;
            };
            for row in report.streams.iter().filter(|row| row.publishing && row.players > 0) {
                if let Some(by) = ends.by(&row.stream) {
                    add(by, Some(row.players), Some(&row.stream));
                }
            }
        }
    }

    /// That what is in force is what whoever asks has seen.
    pub(super) fn expect_generation(&self, file: &Apply) -> Result<(), Error> {
        let Some(expected) = file.expect_generation.filter(|expected| *expected != self.generation) else {
            return Ok(());
        };
        let why = format!(
            "nothing was touched: the plan was made for generation {expected} of the file in force, which is {} by now; see what has \
             changed: srsctl history; make a new plan: srsctl plan",
            self.generation
        );
        Err(Error::new(Code::Changed, why))
    }
}

/// That somebody would be disconnected, and nobody has said that it shall be so.
pub(super) fn consent(changes: &[Change], yes: bool) -> Result<(), Error> {
    let cut: Vec<String> = changes
        .iter()
        .filter(|change| change.disconnects())
        .map(|change| format!("\n  {} {}: {}", change.action, change.unit, change.whom()))
        .collect();
    if yes || cut.is_empty() {
        return Ok(());
    }
    let why = format!(
        "nothing was touched: it would disconnect{}\nif that shall be: the same with --yes",
        cut.concat()
    );
    Err(Error::new(Code::NeedsConsent, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_would_be_disconnected_is_named_and_consent_is_asked_for() {
        let edge = UnitId::worker(Role::Edge, "127.0.0.6", 1936);
        let mut change = Change::new(edge, Action::Stop, Vec::new());
        assert_eq!(consent(&[change.clone()], false), Ok(()));
        (change.players, change.streams) = (Some(12), vec!["live/a".to_owned()]);
        assert_eq!(consent(&[change.clone()], true), Ok(()));
        let error = consent(&[change], false).unwrap_err();
        assert_eq!(error.code, Code::NeedsConsent);
        assert_eq!(
            error.message,
            "nothing was touched: it would disconnect\n  stop edge-127.0.0.6-1936: 12 players (live/a)\n\
             if that shall be: the same with --yes"
        );
    }
}
