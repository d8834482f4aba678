//! A change of a cluster before it is made: its plan, as data, as a table, and as a file that is carried out later.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster::file::ClusterFile;
use cluster::plan::{Action, Change, HostPart, Plan, SCHEMA, digest, summary};
use cluster::{Cluster, Span, UnitId};
use control::api::Apply;
use supervisor::{ClientError, DRAIN_MAX, compare, orphans};

use crate::failure::Failure;
use crate::subject::{Global, Loaded, Subject};
use crate::table::{Cell, Column, Look, Paper, Table};

/// What a change may cost those who are connected.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Cost {
    /// Also where players or encoders are disconnected
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// For so long a port that is taken out of the cluster keeps those whom it has, and takes nobody: 0s to 3600s
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = drain)]
    pub(crate) drain: Span,
}

fn drain(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|_| "a time such as 30s or 500ms".to_owned())?;
    let is_short = Duration::from_millis(span.as_millis().into()) <= DRAIN_MAX;
    if is_short { Ok(span) } else { Err(format!("0s to {}s", DRAIN_MAX.as_secs())) }
}

/// What is to be brought into force, and how.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) cost: Cost,
    /// The number of the earlier file that it is.
    pub(crate) rollback: Option<u64>,
    /// The plan of which it is the text: only that is carried out.
    pub(crate) planned: Option<Plan>,
}

impl Wish {
    /// What the supervisor is asked for, of a file where this generation is in force.
    pub(crate) fn request(&self, loaded: &Loaded, generation: Option<u64>) -> Apply {
        Apply {
            expect_generation: generation,
            yes: self.cost.yes,
            drain_ms: Some(self.cost.drain.as_millis().into()),
            rollback: self.rollback,
            ..request(loaded)
        }
    }
}

fn request(loaded: &Loaded) -> Apply {
    Apply { hosts: loaded.hosts.clone(), ..Apply::new(loaded.path.clone(), loaded.text.clone()) }
}

/// The cluster that a file is to start or to change, or that of a plan that was written.
pub(crate) fn to_bring_up(
    global: &Global,
    argument: Option<&Path>,
) -> Result<(Subject, Loaded, Option<Plan>), Failure> {
    let file = global.required_file(argument)?;
    let Some(plan) = read(&file)? else {
        let (subject, loaded) = Subject::of_loaded(global, file)?;
        return Ok((subject, loaded, None));
    };
    let path = PathBuf::from(&plan.file);
    let file = ClusterFile::new(path.clone(), plan.text.clone().unwrap_or_default());
    let (subject, loaded) = Subject::of_loaded(global, file)?;
    Ok((subject, Loaded { path, ..loaded }, Some(plan)))
}

/// The plan that a file is, if it is one.
fn read(file: &ClusterFile) -> Result<Option<Plan>, Failure> {
    // A cluster file may be JSON too.
    let Ok(json) = serde_json::from_str::<serde_json::Value>(file.text()) else { return Ok(None) };
    if !is_plan(&json) {
        return Ok(None);
    }
    let wrong = |why: &str| {
        Failure::usage(format!("{}: {why}; make a new one: srsctl plan -o", file.path().display()))
    };
    let plan: Plan =
        serde_json::from_value(json).map_err(|error| wrong(&format!("no whole plan: {error}")))?;
    match &plan.text {
        None => Err(wrong("this plan has no text of a cluster file")),
        Some(text) if digest(text) != plan.digest => {
            Err(wrong("the text in this plan is not the one that it was made of"))
        }
        Some(_) => Ok(Some(plan)),
    }
}

fn is_plan(json: &serde_json::Value) -> bool {
    json.get("schema").and_then(|schema| schema.as_str()) == Some(SCHEMA)
}

/// Writes a plan with the text of its file, for later.
///
/// # Errors
/// When it cannot be written, or something else is there, which may be the cluster file.
pub(crate) fn write(plan: &Plan, path: &Path) -> Result<(), Failure> {
    let failed =
        |error: std::io::Error| Failure::failed(format!("{}: cannot be written: {error}", path.display()));
    // Of a pipe or a device nothing is lost.
    if path.is_file() && !is_replaceable(&std::fs::read(path).map_err(failed)?) {
        return Err(Failure::usage(format!(
            "{}: there is a file already, and it is no plan; it was left as it is; name another one after -o, or remove it",
            path.display()
        )));
    }
    let json = serde_json::to_vec_pretty(plan).map_err(Failure::failed)?;
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(&json).and_then(|()| file.write_all(b"\n")).map_err(failed)
}

/// Whether a file with this text is an earlier plan, or has nothing.
fn is_replaceable(text: &[u8]) -> bool {
    let json = || serde_json::from_slice::<serde_json::Value>(text).ok();
    text.is_empty() || json().is_some_and(|json| is_plan(&json))
}

/// What bringing a file into force would do now.
///
/// # Errors
/// When the supervisor refuses the file or does not answer.
pub(crate) async fn plan(subject: &Subject, loaded: &Loaded) -> Result<Plan, Failure> {
    let asked = if subject.dirs().is_supervised() {
        match subject.client().plan(&request(loaded)).await {
            Err(ClientError::NotRunning { .. }) => None,
            other => Some(other?),
        }
    } else {
        None
    };
    let part = match asked {
        Some(part) => part,
        None => without_supervisor(subject, loaded)?,
    };
    Ok(Plan {
        schema: SCHEMA.to_owned(),
        cluster: subject.name().to_owned(),
        file: loaded.path.display().to_string(),
        digest: digest(&loaded.text),
        text: None,
        hosts: vec![part],
    })
}

/// The generation of the file in force on each machine, as a plan was made for it.
pub(crate) fn generations(plan: &Plan) -> Vec<(String, Option<u64>)> {
    plan.hosts.iter().map(|part| (part.machine.clone(), part.generation)).collect()
}

/// That all is as it was when a plan was written, if one was: only then it is shown or carried out. `now` is each machine, and the
/// generation of the file in force there.
///
/// # Errors
/// When a machine has changed since.
pub(crate) fn unchanged(written: Option<&Plan>, now: &[(String, Option<u64>)]) -> Result<(), Failure> {
    let Some(written) = written else { return Ok(()) };
    for (machine, generation) in now {
        let before = written.hosts.iter().find(|part| part.machine == *machine).map(|part| part.generation);
        let why = match (before, generation) {
            (Some(before), now) if before == *now => continue,
            (Some(Some(before)), Some(now)) => format!(
                "the plan was made for generation {before} of the file in force, which is {now} by now (srsctl history)"
            ),
            (Some(None), _) => "the cluster was started since the plan was made".to_owned(),
            (Some(Some(_)), None) => "the supervisor has ended since the plan was made".to_owned(),
            (None, _) => "the plan was made elsewhere, and has nothing of this machine".to_owned(),
        };
        let at = if now.len() > 1 { format!("{machine}: ") } else { String::new() };
        let again = "make a new plan: srsctl plan -o PLAN FILE";
        return Err(Failure::failed(format!("{at}nothing was touched: {why}; {again}")));
    }
    Ok(())
}

/// What `up` does where no supervisor runs: all is started, unless processes go on without one.
fn without_supervisor(subject: &Subject, loaded: &Loaded) -> Result<HostPart, Failure> {
    let living: Vec<UnitId> =
        orphans::remnants(subject.dirs()).into_iter().filter(|it| it.is_alive).map(|it| it.id).collect();
    let current = if living.is_empty() { None } else { Some(subject.cluster_in_force()?) };
    let mut changes = unasked(current.as_ref(), &loaded.cluster);
    for change in changes.iter_mut().filter(|it| current.is_some() && it.action == Action::Start) {
        // It was being taken out when its supervisor ended.
        if change.unit != UnitId::encoder() && living.contains(&change.unit) {
            change.action = Action::Reconfigure;
            change.why = vec!["it was leaving, and stays".to_owned()];
        }
    }
    Ok(HostPart { machine: HostPart::HERE.to_owned(), generation: None, busy: None, changes })
}

/// What makes of the `current` cluster, which goes on without a supervisor, the one that is wanted.
pub(crate) fn unasked(current: Option<&Cluster>, wanted: &Cluster) -> Vec<Change> {
    let mut changes = compare(current, wanted);
    for change in changes.iter_mut().filter(|it| matches!(it.action, Action::Stop | Action::Restart)) {
        // They are not asked.
        let is_port = change.unit != UnitId::encoder();
        let is_origin = change.unit.parts().0 == cluster::Role::Origin;
        change.players = change.players.filter(|_| !is_port);
        change.encoders = change.encoders.filter(|_| !is_origin);
    }
    changes
}

/// A plan as a person reads it, who has consented or has not.
pub(crate) fn table(plan: &Plan, consent: bool, paper: Paper) -> String {
    let mut table = Table::new([
        Column::Yielding("HOST"),
        Column::Left("ROLE"),
        Column::Right("PORT"),
        Column::Left("ACTION"),
        Column::Right("PLAYERS"),
        Column::Right("ENCODERS"),
        Column::Open("WHY"),
    ]);
    for change in plan.changes() {
        let (role, host, port) = change.unit.parts();
        let port = if port == 0 { "-".to_owned() } else { port.to_string() };
        let look = if change.disconnects() { Look::Wrong } else { Look::Plain };
        let number = |number: Option<u32>| match number {
            Some(0) => Cell::from("-"),
            Some(number) => Cell::new(number.to_string(), Look::Wrong),
            None => Cell::new("?", Look::Wrong),
        };
        table.row([
            if host.is_empty() { "-" } else { host }.into(),
            role.as_str().into(),
            port.into(),
            Cell::new(change.action.as_str(), look),
            number(change.players),
            number(change.encoders),
            change.why.join("; ").into(),
        ]);
    }
    let busy: String =
        plan.hosts.iter().filter_map(|host| Some((&host.machine, host.busy.as_ref()?))).map(busy).collect();
    format!("{}{busy}\n\n{}", headline(plan, consent), table.render(paper))
}

/// That something else is under way on a machine.
fn busy((machine, what): (&String, &String)) -> String {
    let (machine, what) = (text::clean(machine), text::clean(what));
    format!(
        "\n{machine}: the supervisor is busy: {what}; this is against the file that is in force when that is done, and whom that disconnects is not counted"
    )
}

/// A path as a word of a shell's command, and no option.
pub(crate) fn shell_word(path: &Path) -> String {
    let word = path.display().to_string();
    let word = if word.starts_with('-') { format!("./{word}") } else { word };
    text::shell_word(&word).into_owned()
}

/// What a plan comes to.
fn headline(plan: &Plan, consent: bool) -> String {
    let (cluster, file) = (text::clean(&plan.cluster), text::clean(&plan.file));
    let mut generations: Vec<u64> = plan.hosts.iter().filter_map(|host| host.generation).collect();
    generations.sort_unstable();
    generations.dedup();
    let against = match generations.as_slice() {
        [] => ", no supervisor runs".to_owned(),
        [generation] => format!(", against generation {generation}"),
        several => {
            let several: Vec<_> = several.iter().map(u64::to_string).collect();
            format!(", against generations {}", several.join(", "))
        }
    };
    let what = if plan.has_changes() { summary(plan.changes()) } else { "nothing to change".to_owned() };
    let cut: Vec<&Change> = plan.changes().filter(|change| change.disconnects()).collect();
    let sum = |of: fn(&Change) -> Option<u32>| cut.iter().map(|change| of(change)).sum::<Option<u32>>();
    let needs = if consent { "" } else { ": needs --yes" };
    let whom = match (cut.is_empty(), sum(|it| it.players), sum(|it| it.encoders)) {
        (true, _, _) if plan.hosts.iter().any(|host| host.busy.is_some()) => {
            ", nobody else is disconnected".to_owned()
        }
        (true, _, _) => ", nobody is disconnected".to_owned(),
        (false, players @ Some(_), encoders @ Some(_)) => {
            let all =
                Change { players, encoders, ..Change::new(UnitId::encoder(), Action::Nothing, Vec::new()) };
            format!(", disconnects {}{needs}", all.whom())
        }
        (false, _, _) => format!(", may disconnect players or encoders{needs}"),
    };
    format!("cluster {cluster}, {file}{against}: {what}{whom}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::Role;

    #[test]
    fn a_plan_is_a_table_of_what_happens_to_whom_and_why() {
        let edge = |port| UnitId::worker(Role::Edge, "127.0.0.6", port);
        let of = |unit, action, why: &str| Change::new(unit, action, vec![why.to_owned()]);
        let origin = UnitId::worker(Role::Origin, "127.0.0.5", 1935);
        let mut changes = vec![
            of(origin, Action::Reconfigure, "1 fewer forward target"),
            Change::new(edge(1935), Action::Nothing, Vec::new()),
            of(edge(1937), Action::Start, "added to the file"),
            of(edge(1936), Action::Stop, "removed from the file"),
        ];
        (changes[3].players, changes[3].encoders) = (Some(12), Some(1));
        let part = HostPart { machine: HostPart::HERE.to_owned(), generation: Some(3), busy: None, changes };
        let plan = Plan {
            schema: SCHEMA.to_owned(),
            cluster: "live".to_owned(),
            file: "/srv/live/cluster.yaml".to_owned(),
            digest: digest(""),
            text: None,
            hosts: vec![part],
        };
        snapbox::assert_data_eq!(
            table(&plan, false, Paper::PLAIN),
            snapbox::str![[r#"
cluster live, /srv/live/cluster.yaml, against generation 3: 1 started, 1 stopped, 1 reconfigured, disconnects 12 players, 1 encoder: needs --yes

HOST      ROLE   PORT ACTION      PLAYERS ENCODERS WHY
127.0.0.5 origin 1935 reconfigure       -        - 1 fewer forward target
127.0.0.6 edge   1935 nothing           -        -
127.0.0.6 edge   1937 start             -        - added to the file
127.0.0.6 edge   1936 stop             12        1 removed from the file

"#]]
        );
        // Whose name obeys is shown as one that does not.
        let mut plan = Plan { file: "/srv/\u{1b}[2J.yaml".to_owned(), ..plan };
        plan.hosts[0].changes[3].players = Some(1);
        plan.hosts[0].changes[3].encoders = Some(0);
        assert_eq!(
            table(&plan, true, Paper::PLAIN).lines().next().unwrap(),
            "cluster live, /srv/\u{fffd}[2J.yaml, against generation 3: 1 started, 1 stopped, 1 reconfigured, disconnects 1 player"
        );
    }

    #[test]
    fn a_path_is_one_word_for_a_shell_and_no_option() {
        assert_eq!(shell_word(Path::new("my plan.json")), "'my plan.json'");
        assert_eq!(shell_word(Path::new("-x")), "./-x");
    }
}
