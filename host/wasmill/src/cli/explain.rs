//! `wasmill explain`.

use std::fmt::Write as _;

use super::args;
use super::exit::Stop;
use super::plan::{End, Plan, plan, refuse_too_weak};
use super::{load, print_json};
use crate::spec::{Grant, HumanDuration, Kept, Sharing};

/// Shows what a pipeline will do.
///
/// # Errors
/// When the spec is wrong, or asks for what can't be given: then after the plan is shown.
pub fn run(args: &args::Explain) -> Result<(), Stop> {
    let pipeline = load::pipeline(args.pipeline.as_deref(), &args.overrides)?;
    let plan = plan(&pipeline)?;
    if args.json {
        print_json(&plan)?;
    } else {
        super::print(&text(&plan))?;
    }
    refuse_too_weak(&pipeline, &plan)
}

fn end(text: &mut String, word: &str, end: &End) {
    let takes = end.takes.as_ref().map(|t| format!("takes {t}; ")).unwrap_or_default();
    let _ = writeln!(text, "  {word:<9} {:<16} {takes}{}", end.name, end.is.join(", "));
    for setting in
        ["url", "listen", "path", "stream", "consumer", "subject", "topic", "group", "table", "mode", "key"]
    {
        if let Some(value) = end.settings.get(setting).and_then(|p| p.as_str()) {
            let _ = writeln!(text, "  {:<9} {:<16} {setting} {value}", "", "");
        }
    }
    if end.codec != "json" {
        let _ = writeln!(text, "  {:<9} {:<16} codec {}", "", "", end.codec);
    }
    for tried in &end.tried {
        let _ = writeln!(text, "  {:<9} {:<16} {tried}", "", "");
    }
}

fn human(ms: u64) -> HumanDuration {
    HumanDuration(std::time::Duration::from_millis(ms))
}

/// The plan as text. Writing to a `String` can't fail.
fn text(plan: &Plan) -> String {
    let mut t = String::new();
    let _ = writeln!(t, "pipeline {} ({})\n", plan.name, plan.file);
    plan.sources.iter().for_each(|s| end(&mut t, "source", s));
    for step in &plan.stages {
        let _ = writeln!(t, "  {:<9} {:<16} {}", step.kind, step.name, step.runs);
        for built_in in &step.built_ins {
            let _ = writeln!(t, "  {:<9} {:<16} built-in {built_in}", "", "");
        }
        if let Some(plugin) = &step.plugin {
            let by_name = |g: &&Grant| matches!(g, Grant::State | Grant::Metrics | Grant::WallClock);
            let grants: Vec<String> =
                step.grants.iter().filter(by_name).map(|g| super::sandbox::grant(*g).to_string()).collect();
            let grants =
                if grants.is_empty() { String::new() } else { format!(", granted {}", grants.join(", ")) };
            let _ = writeln!(t, "  {:<9} {:<16} plugin {plugin}{grants}", "", "");
        }
        for granted in &step.granted {
            let _ = writeln!(t, "  {:<9} {:<16} granted {granted}", "", "");
        }
        for tried in &step.tried {
            let _ = writeln!(t, "  {:<9} {:<16} {tried}", "", "");
        }
    }
    plan.sinks.iter().for_each(|s| end(&mut t, "sink", s));
    if !plan.lookups.is_empty() {
        t.push_str("\nlookups\n");
    }
    for table in &plan.lookups {
        let _ = write!(t, "  {:<9} {} by {}, ", table.name, table.file, table.key);
        let _ = match (&table.rows, &table.digest, &table.problem) {
            (Some(rows), Some(digest), _) => writeln!(t, "{rows} rows, sha256 {digest}"),
            (_, _, problem) => writeln!(t, "{}", problem.as_deref().unwrap_or("not read")),
        };
    }
    t.push_str("\ntime\n");
    let _ = writeln!(t, "  results are committed every {}", human(plan.epoch_interval_ms));
    let _ = match plan.idle_timeout_ms {
        Some(ms) => writeln!(t, "  a partition that is quiet for {} no longer holds stream time", human(ms)),
        None => writeln!(t, "  a quiet partition holds stream time until it ends (idle_timeout is off)"),
    };
    if let Some(most) = &plan.max_ahead {
        let what = if most.beyond == "clamp" { "gets that time" } else { "becomes a dead letter" };
        let ms = u64::try_from(most.ms).unwrap_or_default();
        let _ = writeln!(t, "  an event time more than {} ahead of the source's log {what}", human(ms));
    }
    t.push_str("\npositions and state\n");
    let _ = writeln!(t, "  {}", plan.kept_where);
    t.push_str(match plan.sharing {
        Sharing::Source => "  several processes may run it: the sources' groups share the partitions out\n",
        Sharing::Store if plan.kept == Kept::Postgres => {
            "  several processes may run it: groups share the sources' partitions out, and the database knows whose each is\n"
        }
        Sharing::Store => {
            "  several processes may run it, if the aggregate is commutative: they add up in Redis\n"
        }
        Sharing::Exchange => {
            "  several processes may run it: groups share out the sources' partitions, and the exchange's with their state\n"
        }
        Sharing::Alone => "  one process runs it alone\n",
    });
    for reason in &plan.alone_because {
        let _ = writeln!(t, "    because {reason}");
    }
    t.push_str("\nguarantees\n");
    for route in &plan.routes {
        let _ = writeln!(t, "  {} → {}: {}", route.source, route.sink, route.guarantee);
        for because in &route.because {
            let _ = writeln!(t, "    because {because}");
        }
        for more in &route.for_more {
            let _ = writeln!(t, "    for more, {more}");
        }
    }
    t.push_str("\nreplay\n");
    if plan.replayable {
        t.push_str(
            "  a replay gives the same results, whatever the workers, the batch size and the crashes\n",
        );
    }
    for reason in &plan.not_replayable_because {
        let _ = writeln!(t, "  results may differ in a replay: {reason}");
    }
    if !plan.notes.is_empty() {
        t.push_str("\nnotes\n");
        for note in &plan.notes {
            let _ = writeln!(t, "  {note}");
        }
    }
    t
}
