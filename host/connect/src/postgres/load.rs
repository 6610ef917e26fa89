//! Rows of an epoch as they are kept, and how COPY takes them.

use std::ops::Range;

use bytes::Bytes;
use futures_util::{SinkExt as _, pin_mut};
use tokio_postgres::{Client, Error, Statement};
use wasmill_engine::output::EncodedBatch;

/// How many bytes of rows one COPY takes at most, but for a single row: a refused row in it costs about as many once
/// more.
const COPY_BYTES: usize = 4 << 20;
/// How many bytes go into one message of COPY.
const PIECE_BYTES: usize = 256 << 10;
/// Signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xFF\r\n\0\0\0\0\0\0\0\0\0";
/// No more rows.
const TRAILER: &[u8] = &[0xFF, 0xFF];

/// Rows of one epoch for one table.
pub(super) struct Load {
    pub sink: usize,
    /// The rows' bytes, one behind the other.
    pub rows: Bytes,
    /// Where each begins, and the end of the last.
    pub bounds: Vec<usize>,
    /// The number of its first row among all since the sink's last flush.
    pub first: usize,
    /// Those that the server hasn't refused.
    pub good: Vec<Range<usize>>,
    /// Whether they are in the open transaction.
    pub sent: bool,
    /// Whether the host was told what is refused of it.
    pub told: bool,
}

impl Load {
    /// All rows of a batch, in their order; `first` is the number of the first one.
    pub fn all(sink: usize, mut first: usize, batch: &EncodedBatch) -> Vec<Self> {
        let mut loads = Vec::new();
        let mut records = batch.records.as_slice();
        while !records.is_empty() {
            let mut bytes = 0;
            let fits = records.iter().take_while(|record| {
                bytes += record.value.len();
                bytes <= COPY_BYTES
            });
            let (now, later) = records.split_at(fits.count().max(1));
            records = later;
            let mut rows = Vec::with_capacity(now.iter().map(|record| record.value.len()).sum());
            let mut bounds = Vec::with_capacity(now.len() + 1);
            bounds.push(0);
            // Rows that stand one behind the other are copied as one piece.
            let mut piece = 0..0;
            for record in now {
                if record.value.start == piece.end {
                    piece.end = record.value.end;
                } else {
                    rows.extend_from_slice(batch.data.get(piece).unwrap_or_default());
                    piece = record.value.clone();
                }
                bounds.push(bounds.last().copied().unwrap_or_default() + record.value.len());
            }
            rows.extend_from_slice(batch.data.get(piece).unwrap_or_default());
            let good = std::iter::once(0..now.len()).collect();
            let rows = Bytes::from(rows);
            loads.push(Load { sink, rows, bounds, first, good, sent: false, told: false });
            first += now.len();
        }
        loads
    }
}

/// Sends some rows of a load.
pub(super) async fn copy(
    client: &Client,
    statement: &Statement,
    load: &Load,
    part: &[Range<usize>],
) -> Result<u64, Error> {
    let into = client.copy_in::<_, Bytes>(statement).await?;
    pin_mut!(into);
    let mut sent = into.send(Bytes::from_static(HEADER)).await;
    'rows: for range in part {
        let (mut from, end) = (load.bounds[range.start], load.bounds[range.end]);
        while from < end {
            let to = end.min(from + PIECE_BYTES);
            sent = into.send(load.rows.slice(from..to)).await;
            if sent.is_err() {
                break 'rows;
            }
            from = to;
        }
    }
    if sent.is_ok() {
        sent = into.send(Bytes::from_static(TRAILER)).await;
    }
    // What the server has against the rows it answers at the end, though it may refuse to be sent more before.
    match into.finish().await {
        Ok(rows) => sent.map(|()| rows),
        Err(e) => Err(e),
    }
}

/// The two halves of some rows, the first with `count` of them.
pub(super) fn halves(part: Vec<Range<usize>>, count: usize) -> (Vec<Range<usize>>, Vec<Range<usize>>) {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let mut left = count;
    for range in part {
        let at = range.start + left.min(range.len());
        left -= at - range.start;
        one.extend(Some(range.start..at).filter(|r| !r.is_empty()));
        two.extend(Some(at..range.end).filter(|r| !r.is_empty()));
    }
    (one, two)
}

/// The rows of all these, in their order: nothing is known of any of them.
pub(super) fn restored(
    good: Vec<Range<usize>>,
    refused: impl Iterator<Item = Range<usize>>,
    todo: Vec<Vec<Range<usize>>>,
) -> Vec<Range<usize>> {
    let mut all: Vec<_> = good.into_iter().chain(refused).chain(todo.into_iter().flatten()).collect();
    all.sort_by_key(|range| range.start);
    all
}
