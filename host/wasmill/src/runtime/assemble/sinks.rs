//! The sinks of a pipeline, and its transactions.

use std::sync::Arc;

use wasmill_connect::Writer;
use wasmill_connect::codec::Writing;
use wasmill_connect::kafka::Transactions;
use wasmill_engine::output::{SinkRoute, Takes, When};
use wasmill_engine::state::{Checkpoint, Delta, StateStore};

use super::super::dead_letter_log::DeadLetterLog;
use super::super::failpoint;
use super::super::retry::{Ends, insist, off_the_network};
use super::super::transaction::{TRANSACTION, Transacted};
use super::codecs::{envelopes, writing};
use super::joint::Joint;
use super::{EXCHANGE, NamedSink, outside};
use crate::spec;
use crate::spec::{Part, Pipeline, Then, Tried};

/// The name under which the dead-letter sink's token is kept.
pub(super) const DEAD_LETTER_SINK: &str = "dead_letter";

/// The sinks, connected to nothing yet, with what each takes; and the transactions that some of them are in.
pub(super) type Opened = (Vec<NamedSink>, Vec<(Takes, When)>, Option<Transacted>);

pub(super) async fn open_sinks(
    pipeline: &Pipeline,
    joint: Option<&Joint>,
    ends: &Ends,
) -> anyhow::Result<Opened> {
    let transactions = match pipeline.transactions() {
        Some(spec) => {
            let transactions = Transactions::new(spec, &pipeline.transactional_id()).map_err(outside)?;
            Some(if failpoint::is_asked(failpoint::UNGUARDED) {
                transactions.unguarded()
            } else {
                transactions
            })
        }
        None => None,
    };
    let mut sinks = Vec::new();
    let mut takes = Vec::new();
    if let (Part::Before, Some(exchange), Some(transactions)) =
        (pipeline.part, pipeline.exchange_topic(), &transactions)
    {
        takes.push((Takes::Main, When::Always));
        let sink = exchange.sink(transactions);
        sinks.push(NamedSink { name: EXCHANGE.to_owned(), codec: envelopes(), sink, in_transaction: true });
    }
    // And what makes durable what it writes, where that isn't the sink itself.
    type Made<'a> = anyhow::Result<(NamedSink, Option<&'a str>)>;
    let open = |name: String, codec: Writing, spec: &spec::SinkSpec| -> Made<'_> {
        if let Some(sink) = joint.and_then(|joint| joint.sink(pipeline, spec)) {
            let sink = NamedSink { name, codec, sink: sink.map_err(outside)?, in_transaction: false };
            return Ok((sink, Some("the store")));
        }
        let within = transactions.as_ref().zip(pipeline.in_transactions(spec));
        let (sink, in_transaction) = match within {
            Some((transactions, spec)) => (transactions.sink(spec), true),
            None => (spec.sink(), false),
        };
        let sink = NamedSink { name, codec, sink: sink.map_err(outside)?, in_transaction };
        Ok((sink, in_transaction.then_some(TRANSACTION)))
    };
    for (number, spec) in pipeline.sinks.iter().enumerate() {
        if pipeline.part == Part::Before && spec.output.is_none() {
            continue;
        }
        takes.push((spec.output.clone().map_or(Takes::Main, Takes::Named), spec.when.clone()));
        let name = format!("{number}:{}", spec.connector.name());
        let codec = writing(&spec.codec, &name, &spec.connector, ends).await?;
        let (mut sink, committed_by) = open(name, codec, &spec.connector)?;
        if spec.tried.then == Then::DeadLetter
            && let Some(attempts) = spec.tried.attempts
        {
            sink.sink.give_up_after(attempts);
        }
        ends.ask(&sink.name, &spec.tried, sink.sink.taken());
        if let Some(end) = committed_by.filter(|_| spec.tried != Tried::default()) {
            ends.ask(end, &spec.tried, None);
        }
        sinks.push(sink);
    }
    takes.push((Takes::DeadLetters, When::Always));
    sinks.push(match &pipeline.dead_letter {
        Some(spec) => open(DEAD_LETTER_SINK.to_owned(), envelopes(), spec)?.0,
        None => NamedSink {
            name: DEAD_LETTER_SINK.to_owned(),
            codec: envelopes(),
            sink: Box::new(DeadLetterLog),
            in_transaction: false,
        },
    });
    let transacted = transactions.map(|transactions| Transacted {
        transactions,
        changelog: None,
        partitioned: None,
        replaced: 0,
        shortened: false,
    });
    Ok((sinks, takes, transacted))
}

/// The checkpoint before the first message to a sink that refuses repeats by what it finds behind its token: a run
/// that dies before its first commit has one too. `checkpoint` is the last one, or what a first one has; none is made
/// where each such sink has its token.
pub(super) async fn begin(
    sinks: &mut [NamedSink],
    store: &Arc<dyn StateStore>,
    checkpoint: Checkpoint,
    ends: &Ends,
) -> anyhow::Result<Option<Checkpoint>> {
    let has_token = |name: &str| checkpoint.sinks.iter().any(|(stored, _)| stored == name);
    let lacks = |s: &NamedSink| {
        let traits = s.sink.traits();
        traits.by_token && traits.refuses_repeats && !has_token(&s.name)
    };
    if !store.is_durable() || !sinks.iter().any(lacks) {
        return Ok(None);
    }
    let mut tokens = Vec::new();
    for NamedSink { name, sink, .. } in sinks {
        tokens.push((name.clone(), insist!(ends, name.as_str(), sink.flush()).map_err(outside)?));
    }
    let checkpoint = Checkpoint { epoch: checkpoint.epoch + 1, sinks: tokens, ..checkpoint };
    let commit = || {
        let (store, checkpoint) = (Arc::clone(store), checkpoint.clone());
        off_the_network(move || store.commit(&Delta::default(), &checkpoint))
    };
    insist!(ends, "the store", commit()).map_err(outside)?;
    Ok(Some(checkpoint))
}

/// The checkpoint before the first message of a run that begins with other plugins than the last checkpoint says, or
/// might, or that is the first: a crash before the first commit is known for one by it.
pub(super) async fn begin_with_others(
    store: &Arc<dyn StateStore>,
    checkpoint: Checkpoint,
    ends: &Ends,
) -> anyhow::Result<Checkpoint> {
    let checkpoint = Checkpoint { epoch: checkpoint.epoch + 1, ..checkpoint };
    let commit = || {
        let (store, checkpoint) = (Arc::clone(store), checkpoint.clone());
        off_the_network(move || store.commit(&Delta::default(), &checkpoint))
    };
    insist!(ends, "the store", commit()).map_err(outside)?;
    Ok(checkpoint)
}

/// Connects the sinks, and takes them back to what is committed.
pub(super) async fn recover_sinks(
    mut sinks: Vec<NamedSink>,
    takes: Vec<(Takes, When)>,
    checkpoint: Option<&Checkpoint>,
    writer: &Writer,
    ends: &Ends,
) -> anyhow::Result<(Vec<NamedSink>, Vec<SinkRoute>)> {
    let mut routes = Vec::new();
    for (NamedSink { name, codec, sink, .. }, (takes, when)) in sinks.iter_mut().zip(takes) {
        let token =
            checkpoint.and_then(|c| c.sinks.iter().find(|(n, _)| n == name)).map(|(_, token)| token.as_str());
        sink.identify(Writer { sink: name.clone(), ..writer.clone() });
        sink.frame_by(Arc::clone(&codec.framing));
        insist!(ends, name.as_str(), sink.recover(token)).map_err(outside)?;
        routes.push(SinkRoute { takes, encoder: sink.encoder(codec), when });
    }
    Ok((sinks, routes))
}
