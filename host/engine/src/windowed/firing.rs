//! What leaves a windowed stage: windows as messages, and messages that came too late or can't be folded.

use std::sync::Arc;

use wasmill_frame::Parts;

use super::Windowed;
use super::table::Place;
use crate::batch::Batch;
use crate::dead_letter::{Buried, DeadLetter};
use crate::lane::Way;
use crate::output::OutputId;
use crate::position::PartitionId;
use crate::stage::{Firing, Origins};
use crate::time::TIMESTAMP_MAX_MS;
use crate::window::{Emit, Kind, Late, Panes};

/// A window that goes out.
pub(super) struct Fire {
    pub place: Place,
    pub start: i64,
    pub end: i64,
    /// Whether it closes.
    pub last: bool,
    pub revision: u32,
    /// Stream time at it, as a stage behind sees it.
    pub stamp: i64,
    pub value: Value,
}

/// What a window holds.
pub(super) enum Value {
    /// An accumulator to be finished.
    Accumulator(Vec<u8>),
    /// None, for this reason.
    Failed(String),
    /// Nothing any more: it went out before, and another one has taken its place.
    TakenBack,
}

impl Value {
    pub fn of(merged: Result<Vec<u8>, String>) -> Self {
        merged.map_or_else(Self::Failed, Self::Accumulator)
    }
}

impl Windowed {
    /// Finishes windows and passes them on, in this order.
    pub(super) fn send(&mut self, fires: Vec<Fire>, way: &mut Way<'_>) {
        let mut rest = fires.as_slice();
        while !rest.is_empty() {
            let some = &rest[..rest.len().min(self.at_once_max)];
            let sent = self.send_some(some, way);
            debug_assert!(sent > 0, "at least the first is finished");
            rest = &rest[sent.max(1)..];
        }
    }

    /// Sends as many windows as are finished at once, the first at least; answers how many.
    fn send_some(&mut self, some: &[Fire], way: &mut Way<'_>) -> usize {
        let accumulators: Vec<&[u8]> = some
            .iter()
            .filter_map(|fire| match &fire.value {
                Value::Accumulator(bytes) => Some(bytes.as_slice()),
                Value::Failed(_) | Value::TakenBack => None,
            })
            .collect();
        let mut finished = self.aggregator.finish(&accumulators).into_iter();
        let nowhere = PartitionId { source: 0, partition: 0 };
        let mut batch = Batch::with_capacity(nowhere, 0, some.len(), some.len() * 256);
        let mut firings = Vec::with_capacity(some.len());
        let mut sent = 0;
        for fire in some {
            let value = match &fire.value {
                Value::Accumulator(_) => match finished.next() {
                    Some(value) => value,
                    None => break,
                },
                Value::Failed(reason) => {
                    Err((format!("the window's panes can't be merged: {reason}"), "error"))
                }
                Value::TakenBack => Ok(b"null".to_vec()),
            };
            sent += 1;
            match value {
                Ok(value) => {
                    way.counts.fired += u64::from(fire.last);
                    self.push(fire, &value, &mut batch, &mut firings);
                }
                Err((reason, kind)) => self.bury_window(fire, &reason, kind, way),
            }
        }
        way.pass_on(batch, &firings);
        sent
    }

    /// Adds a window to a batch, as a message.
    fn push(&self, fire: &Fire, value: &[u8], batch: &mut Batch, firings: &mut Vec<Firing>) {
        let Fire { start, end, last, revision, .. } = fire;
        let (name, key) = (&self.spec.name, self.table.at(fire.place).key());
        let key_json = key_as_json(key, self.spec.compound_key);
        let revision_json = match self.spec.emit {
            Emit::Close => String::new(),
            Emit::Update | Emit::Every(_) => format!("\"revision\":{revision},"),
        };
        let mut payload = format!(
            "{{\"key\":{key_json},\"start\":{start},\"end\":{end},\"final\":{last},{revision_json}\"value\":"
        )
        .into_bytes();
        payload.extend_from_slice(value);
        payload.push(b'}');
        let key_text = String::from_utf8_lossy(key);
        let id = match self.spec.window.0 {
            Kind::Paned(_) => format!("{name}/{key_text}/{start}"),
            // Two sessions of a key may begin alike, if one had closed before.
            Kind::Session { .. } => format!("{name}/{key_text}/{start}/{end}"),
        };
        batch.push(
            &Parts {
                id: &id,
                kind: &format!("{name}.window"),
                key: Some(key),
                payload: &payload,
                timestamp: (end - 1).min(TIMESTAMP_MAX_MS),
                metadata: b"",
                payload_is_json: true,
            },
            firings.len() as u64,
        );
        if let Some(row) = batch.rows.last_mut() {
            row.stamp = fire.stamp;
        }
        firings.push(Firing {
            stage: Arc::clone(name),
            key: key.into(),
            start: *start,
            end: *end,
            revision: *revision,
        });
    }

    fn bury_window(&self, fire: &Fire, reason: &str, kind: &'static str, way: &mut Way<'_>) {
        let (name, key) = (&*self.spec.name, self.table.at(fire.place).key());
        let plugin = self.aggregator.plugin();
        let why = DeadLetter { reason, kind, stage: name, plugin, attempts: 2 };
        let id = OutputId::Window {
            stage: name,
            key,
            start: fire.start,
            end: fire.end,
            revision: fire.revision,
            emit: 0,
            left_at: name,
        };
        way.out.bury(way.routes, &why, Buried::Window, &id, None);
    }

    /// A message that none of its windows takes any more.
    pub(super) fn late(&mut self, batch: &Batch, index: usize, origins: Origins<'_>, way: &mut Way<'_>) {
        way.counts.late += 1;
        let row = &batch.rows[index];
        match &self.spec.late {
            Late::Drop => {}
            Late::DeadLetter => {
                let reason = self.why_late(batch.frame.get(index).timestamp(), row.stamp);
                self.bury(batch, index, origins, ("late", &reason, 1), way);
            }
            Late::Output(name) => match way.routes.named(name) {
                Ok(sinks) => {
                    let id = origins.id(row).left_at(&self.spec.name, ordinal(batch, index));
                    way.out.send(way.routes, sinks, batch.frame.get(index), &id, None);
                }
                Err(reason) => self.bury(batch, index, origins, ("late", &reason, 1), way),
            },
        }
    }

    fn why_late(&self, time: i64, stamp: i64) -> String {
        let lateness = self.spec.allowed_lateness_ms;
        let (windows, end) = match self.spec.window.0 {
            Kind::Paned(panes) => {
                let (first, end) = (panes.first_end(time), panes.last_end(time));
                let length = panes.length_ms();
                let windows = match panes {
                    Panes::AtMessages { .. } => {
                        format!("the last window that can hold it, [{}, {end}),", end - length)
                    }
                    Panes::Every { .. } if first == end => {
                        format!("its window [{}, {end})", end - length)
                    }
                    Panes::Every { .. } => format!(
                        "its windows [{}, {first}) to [{}, {end}), the last of them,",
                        first - length,
                        end - length
                    ),
                };
                (windows, end)
            }
            Kind::Session { gap_ms } => {
                let end = time.saturating_add(gap_ms);
                (format!("its session [{time}, {end}), which no open one is near,"), end)
            }
        };
        format!(
            "late: {windows} closed at stream time {} with an allowed lateness of {lateness} ms; stream time was {stamp}",
            end.saturating_add(self.spec.delay_ms()),
        )
    }

    /// A message that no window can take.
    pub(super) fn bury(
        &self,
        batch: &Batch,
        index: usize,
        origins: Origins<'_>,
        (kind, reason, attempts): (&'static str, &str, u32),
        way: &mut Way<'_>,
    ) {
        let of_plugin = !matches!(kind, "late" | "time");
        let plugin = self.aggregator.plugin().filter(|_| of_plugin);
        let why = DeadLetter { reason, kind, stage: &self.spec.name, plugin, attempts };
        let id = origins.id(&batch.rows[index]).left_at(&self.spec.name, ordinal(batch, index));
        way.out.bury(way.routes, &why, Buried::Message(batch.frame.get(index)), &id, None);
    }
}

/// Which of the results of the same message of the source a message is.
fn ordinal(batch: &Batch, index: usize) -> u32 {
    let of = |i: usize| (batch.rows[i].partition, batch.rows[i].offset, batch.rows[i].index);
    let before = (0..index).rev().take_while(|i| of(*i) == of(index)).count();
    u32::try_from(before).unwrap_or(u32::MAX)
}

/// A key as the payload of a firing shows it.
pub(crate) fn key_as_json(key: &[u8], compound: bool) -> String {
    let text = String::from_utf8_lossy(key);
    if compound { text.into_owned() } else { serde_json::Value::from(text).to_string() }
}
