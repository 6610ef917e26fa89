//! What a pipeline can promise about each route from a source to a sink, and why.

use serde::Serialize;
use wasmill_connect::{SinkTraits, SourceTraits};

use super::{Delivery, Kept};

/// What is true of every message of a route after any crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// Each result is there once or not at all.
    AtMostOnce,
    /// Each result is there, some perhaps twice.
    AtLeastOnce,
    /// Each result is there exactly once.
    ExactlyOnce,
}

impl std::fmt::Display for Guarantee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AtMostOnce => "at-most-once",
            Self::AtLeastOnce => "at-least-once",
            Self::ExactlyOnce => "exactly-once",
        })
    }
}

/// A source, as the guarantee sees it.
#[derive(Debug, Clone, Copy)]
pub struct RouteSource<'a> {
    /// What people call it.
    pub name: &'a str,
    /// What it can do.
    pub traits: SourceTraits,
}

/// A sink, as the guarantee sees it.
#[derive(Debug, Clone)]
pub struct RouteSink<'a> {
    /// What people call it.
    pub name: &'a str,
    /// What it can do.
    pub traits: SinkTraits,
    /// Whether what it writes is a part of Kafka's transactions.
    pub in_transaction: bool,
    /// Whether it is told at a start what it had taken at the last commit, where it needs that; and no other process
    /// writes beside it what it can't tell from its own.
    pub knows_repeats: bool,
    /// What must be true of its system.
    pub conditions: Vec<String>,
    /// How it could do more, if it could.
    pub more: Option<String>,
}

/// A route with its guarantee.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// The source's name.
    pub source: String,
    /// The sink's name.
    pub sink: String,
    /// What it promises.
    pub guarantee: Guarantee,
    /// Why, one sentence for each part that matters.
    pub because: Vec<String>,
    /// What to change for more; none where there is no more.
    pub for_more: Vec<String>,
    /// Whether the sink is what keeps the route from exactly-once, rather than source or store.
    #[serde(skip)]
    pub sink_is_weak: bool,
}

/// The guarantee of one route. `exact`: the pipeline is committed by transactions of Kafka.
#[must_use]
pub fn route(source: RouteSource<'_>, kept: Kept, exact: bool, sink: RouteSink<'_>) -> Route {
    let mut because = Vec::new();
    let mut for_more = Vec::new();
    let once = (sink.traits.transactional || sink.traits.refuses_repeats) && sink.knows_repeats;
    let mut guarantee = Guarantee::ExactlyOnce;
    if source.traits.seekable {
        because.push(format!("{} can be read again from every committed position", source.name));
    } else {
        guarantee = Guarantee::AtMostOnce;
        because.push(format!(
            "{} can't be read again: what was read and not committed at a crash is gone",
            source.name
        ));
        for_more.push("read from a file or another log that can be read again".to_owned());
    }
    match kept {
        Kept::Disk => {
            because.push("state and positions are committed together in the data directory".to_owned());
        }
        Kept::Redis => because.push(
            "state and positions are committed together in Redis, by one script; what Redis loses in a crash of its own is read again"
                .to_owned(),
        ),
        Kept::Postgres => because
            .push("positions and state are committed in PostgreSQL, by the transaction of the rows".to_owned()),
        Kept::Acked => because.push(format!(
            "{} is acknowledged by the script that writes the results: Redis does both or neither",
            source.name
        )),
        Kept::Changelog => because.push(
            "state and positions are committed in a changelog topic, by the transaction of the outputs"
                .to_owned(),
        ),
        Kept::Source if exact => because.push(format!(
            "positions are with the group of {}, committed by the transaction of the outputs",
            source.name
        )),
        Kept::Source => {
            guarantee = guarantee.min(Guarantee::AtLeastOnce);
            because.push(format!(
                "positions are with the group of {}, and committed after the outputs: a crash between the two writes them again",
                source.name
            ));
        }
        Kept::Memory => {
            guarantee = guarantee.min(Guarantee::AtLeastOnce);
            because.push(if source.traits.forgets {
                format!(
                    "positions and state are in memory: a restart begins with empty state behind what was acknowledged, which is gone from {}",
                    source.name
                )
            } else if source.traits.seekable {
                "positions and state are in memory: a restart reads everything again from the start".to_owned()
            } else {
                "positions and state are in memory: a restart begins with empty state".to_owned()
            });
            for_more.push("give the pipeline a `data_dir`".to_owned());
        }
    }
    if sink.traits.transactional && once {
        because.push(format!("{} shows only what is committed", sink.name));
        if sink.in_transaction {
            because.push("its readers must set isolation.level=read_committed".to_owned());
        }
    } else if once {
        because.push(format!("{} takes nothing twice that it has taken before", sink.name));
    } else if sink.traits.refuses_repeats || sink.traits.transactional {
        guarantee = guarantee.min(Guarantee::AtLeastOnce);
        because.push(format!(
            "{} is not told at a start how far the last commit was: repeats are refused no longer than its system remembers them by itself",
            sink.name
        ));
        for_more.push(
            "set `delivery: exactly_once` with a `data_dir`: one process then keeps what tells repeats from new ones"
                .to_owned(),
        );
    } else {
        guarantee = guarantee.min(Guarantee::AtLeastOnce);
        because.push(format!(
            "{} shows messages at once: a crash before their commit writes them again",
            sink.name
        ));
        let more = sink
            .more
            .unwrap_or_else(|| "write to a sink that commits with the pipeline, such as `file`".to_owned());
        for_more.push(more);
    }
    if once {
        because.extend(sink.conditions);
    }
    Route {
        source: source.name.to_owned(),
        sink: sink.name.to_owned(),
        guarantee,
        because,
        for_more,
        sink_is_weak: !once,
    }
}

/// The routes that promise less than was asked for.
#[must_use]
pub fn too_weak(routes: &[Route], asked: Delivery) -> Vec<&Route> {
    let least = match asked {
        Delivery::ExactlyOnce => Guarantee::ExactlyOnce,
        Delivery::AtLeastOnce => Guarantee::AtLeastOnce,
    };
    routes.iter().filter(|r| r.guarantee < least).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_as_strong_as_its_weakest_part() {
        let log = SourceTraits {
            seekable: true,
            bounded: true,
            shared: false,
            shared_with_positions: false,
            forgets: false,
            append_times: false,
        };
        let pipe = SourceTraits {
            seekable: false,
            bounded: true,
            shared: false,
            shared_with_positions: false,
            forgets: false,
            append_times: false,
        };
        let files = SinkTraits { transactional: true, refuses_repeats: false, by_token: false };
        let ids = SinkTraits { transactional: false, refuses_repeats: true, by_token: false };
        let print = SinkTraits { transactional: false, refuses_repeats: false, by_token: false };
        use Guarantee::{AtLeastOnce, AtMostOnce, ExactlyOnce};
        for (source, kept, sink, expected, reason) in [
            (log, Kept::Disk, files, ExactlyOnce, "shows only what is committed"),
            (log, Kept::Redis, ids, ExactlyOnce, "takes nothing twice"),
            (log, Kept::Disk, print, AtLeastOnce, "writes them again"),
            (log, Kept::Memory, files, AtLeastOnce, "reads everything again"),
            (log, Kept::Memory, print, AtLeastOnce, "reads everything again"),
            (pipe, Kept::Disk, files, AtMostOnce, "is gone"),
            (pipe, Kept::Memory, print, AtMostOnce, "begins with empty state"),
        ] {
            let route = route(
                RouteSource { name: "in", traits: source },
                kept,
                false,
                RouteSink {
                    name: "out",
                    traits: sink,
                    in_transaction: false,
                    knows_repeats: true,
                    conditions: Vec::new(),
                    more: None,
                },
            );
            assert_eq!(route.guarantee, expected, "{route:?}");
            assert!(route.because.iter().any(|b| b.contains(reason)), "{route:?}");
            assert_eq!(route.for_more.is_empty(), expected == ExactlyOnce, "{route:?}");
            assert_eq!(too_weak(&[route], Delivery::ExactlyOnce).is_empty(), expected == ExactlyOnce);
        }
        let broker = RouteSource { name: "kafka", traits: SourceTraits { shared: true, ..log } };
        for traits in [files, print] {
            let sink = RouteSink {
                name: "out",
                traits,
                in_transaction: false,
                knows_repeats: true,
                conditions: Vec::new(),
                more: None,
            };
            let plain = route(broker, Kept::Source, false, sink.clone());
            assert_eq!(plain.guarantee, AtLeastOnce, "{plain:?}");
            assert!(plain.because.iter().any(|b| b.contains("with the group of kafka")), "{plain:?}");
            let exact = route(broker, Kept::Source, true, sink);
            let expected = if traits.transactional { ExactlyOnce } else { AtLeastOnce };
            assert_eq!(exact.guarantee, expected, "{exact:?}");
        }
    }
}
