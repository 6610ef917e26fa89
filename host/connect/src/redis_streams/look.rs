//! A stream's entries, looked through to their end, whatever groups have.

use async_trait::async_trait;
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::position::PartitionId;

use super::entry::{EntryId, Raw, entries};
use super::info;
use super::spec::RedisSinkSpec;
use crate::ConnectorError;
use crate::redis_link::SharedLink;
use crate::scan::{Part, SCAN_RECORDS_MAX, Scan, Scanned};

/// Reads the entries of a stream by their ids.
pub struct RedisScan {
    link: SharedLink,
    stream: String,
    field: String,
    parts: Vec<Part>,
    /// The first id that was not read, and the last one that was there.
    left: Option<(EntryId, EntryId)>,
}

impl RedisScan {
    /// Looks at the stream that a sink writes; one that isn't there yet has nothing.
    ///
    /// # Errors
    /// Disconnected where the server is away; fatal where it may not be read.
    pub async fn of_sink(spec: &RedisSinkSpec) -> Result<Self, ConnectorError> {
        spec.check()?;
        let (link, stream, field) = (spec.link()?, spec.stream.clone(), spec.field.clone());
        let name = stream.clone();
        let found =
            link.ask("cannot look at the stream of dead letters", move |c| info::stream(c, &name)).await?;
        let (mut parts, mut left) = (Vec::new(), None);
        if let Some(found) = found {
            let first = found.first.unwrap_or(found.last);
            parts.push(Part {
                number: 0,
                name: stream.clone(),
                incarnation: None,
                begin: first.offset().unwrap_or(0),
                end: found.last.offset().ok().map(|last| last + 1),
            });
            left = found.first.map(|first| (first, found.last));
        }
        Ok(Self { link, stream, field, parts, left })
    }
}

#[async_trait]
impl Scan for RedisScan {
    fn parts(&self) -> &[Part] {
        &self.parts
    }

    async fn next(&mut self) -> Result<Option<Scanned>, ConnectorError> {
        let Some((from, to)) = self.left.take() else { return Ok(None) };
        let mut command = redis::cmd("XRANGE");
        command.arg(&self.stream).arg(from).arg(to).arg("COUNT").arg(SCAN_RECORDS_MAX);
        let found = self
            .link
            .ask("cannot read the stream of dead letters", move |c| entries(command.query(c)?))
            .await?;
        let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
        let is_full = found.len() >= SCAN_RECORDS_MAX;
        for entry in found {
            let offset = entry
                .id
                .offset()
                .map_err(|why| ConnectorError::Fatal(format!("stream {}: {why}", self.stream)))?;
            let next = offset + 1;
            let raw = Raw::new((offset, next), entry.id, entry.fields.unwrap_or_default(), &self.field);
            let start = batch.data.len();
            batch.data.extend_from_slice(&raw.value);
            batch.next = next;
            batch.records.push(RawRecord {
                offset,
                next,
                value: start..batch.data.len(),
                time_ms: Some(raw.time_ms),
                appended_ms: Some(raw.time_ms),
                rejected: raw.rejected,
                ..RawRecord::default()
            });
        }
        if is_full && EntryId::of_offset(batch.next) <= to {
            self.left = Some((EntryId::of_offset(batch.next), to));
        }
        Ok((!batch.records.is_empty()).then_some(Scanned::Records(batch)))
    }
}
