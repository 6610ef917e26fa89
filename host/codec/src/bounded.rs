//! Bounds the reasons that go to the dead-letter queue: what strangers have written is in them.

use std::sync::Arc;

use wasmill_engine::input::{Carried, Decoder, RawBatch, RawRecord};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_engine::replay::ReplayDecoder;
use wasmill_frame::{FrameBuf, Message};

use crate::{RecordWriter, Takes};

/// How long a reason may be.
pub(crate) const REASON_BYTES_MAX: usize = 2 << 10;
/// How much of a value is shown in one.
const SHOWN_CHARS_MAX: usize = 48;

/// The head of a stranger's text, for an error.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A reason of at most [`REASON_BYTES_MAX`], which keeps its start, where the place is, and its end, where it says
/// what to do.
pub(crate) fn bounded(reason: String) -> String {
    if reason.len() <= REASON_BYTES_MAX {
        return reason;
    }
    const CUT: &str = " … ";
    let half = (REASON_BYTES_MAX - CUT.len()) / 2;
    let head = &reason[..reason.floor_char_boundary(half)];
    let tail = &reason[reason.ceil_char_boundary(reason.len() - half)..];
    format!("{head}{CUT}{tail}")
}

/// A decoder whose reasons are bounded.
pub(crate) struct BoundedDecoder(pub(crate) Arc<dyn Decoder>);

impl Decoder for BoundedDecoder {
    fn decode(&self, record: &RawRecord, of: &RawBatch, frame: &mut FrameBuf) -> Result<(), String> {
        self.0.decode(record, of, frame).map_err(bounded)
    }

    fn carried(&self, record: &RawRecord, data: &[u8]) -> Carried {
        self.0.carried(record, data)
    }

    fn replay(&self) -> Option<&ReplayDecoder> {
        self.0.replay()
    }
}

/// A writer whose reasons are bounded.
pub(crate) struct BoundedWriter(pub(crate) Arc<dyn RecordWriter>);

impl RecordWriter for BoundedWriter {
    fn write(
        &self,
        message: Message<'_>,
        takes: Takes,
        into: &mut EncodedBatch,
    ) -> Result<EncodedRecord, String> {
        self.0.write(message, takes, into).map_err(bounded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reasons_keep_their_ends() {
        assert_eq!(bounded("short".into()), "short");
        let whole = "é".repeat(REASON_BYTES_MAX / 2);
        assert_eq!(bounded(whole.clone()), whole);
        for shift in 0..4 {
            let long = format!("{}start{}: do that", "x".repeat(shift), "é€".repeat(100_000));
            let cut = bounded(long);
            assert!(cut.len() <= REASON_BYTES_MAX && cut.len() > REASON_BYTES_MAX - 10, "{}", cut.len());
            assert!(cut.contains("start") && cut.ends_with(": do that") && cut.contains(" … "), "{cut}");
        }
    }
}
