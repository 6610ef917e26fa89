//! What a plugin answers of accumulators, checked.

use wasmill_frame::Blobs;

use crate::guest::CallError;

/// What `fold` answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Folded<'a> {
    /// The new accumulators, in the groups' order.
    pub accumulators: Vec<&'a [u8]>,
    /// The messages that failed, each once, by their place in the call's frame, with the reasons.
    pub failed: Vec<(usize, String)>,
}

impl<'a> Folded<'a> {
    /// Reads the answer of a call about `groups` groups, over a frame of `messages` messages.
    ///
    /// # Errors
    /// An [`CallError::Answer`] where it isn't one accumulator for each group, and behind these the messages that
    /// failed, each at most once: a failure costs the plugin twelve bytes, the host a dead letter.
    pub fn read(bytes: &'a [u8], groups: usize, messages: usize) -> Result<Self, CallError> {
        let blobs = answered(bytes)?;
        let wrong = |blob: usize, tag: u32| {
            CallError::Answer(format!("fold answered blob {blob} with the tag {tag}"))
        };
        let Some(failures) = blobs.len().checked_sub(groups) else {
            return Err(count_differs("fold", groups, blobs.len()));
        };
        if failures > messages {
            return Err(CallError::Answer(format!("fold failed {failures} messages of {messages}")));
        }
        let mut blobs = blobs.iter().enumerate();
        let accumulators = blobs.by_ref().take(groups).map(|(i, (tag, blob))| match tag {
            0 => Ok(blob),
            tag => Err(wrong(i, tag)),
        });
        let accumulators = accumulators.collect::<Result<Vec<_>, _>>()?;
        let mut has_failed = vec![false; if failures == 0 { 0 } else { messages }];
        let mut failed = Vec::with_capacity(failures);
        for (i, (tag, reason)) in blobs {
            let place = (tag as usize).checked_sub(1).filter(|place| *place < messages);
            let place = place.ok_or_else(|| wrong(i, tag))?;
            if std::mem::replace(&mut has_failed[place], true) {
                return Err(CallError::Answer(format!("fold failed message {place} twice")));
            }
            failed.push((place, String::from_utf8_lossy(reason).into_owned()));
        }
        Ok(Self { accumulators, failed })
    }
}

/// The blobs of an answer.
pub(super) fn answered(bytes: &[u8]) -> Result<Blobs<'_>, CallError> {
    Blobs::parse(bytes).map_err(|m| CallError::Answer(m.to_string()))
}

pub(super) fn count_differs(call: &str, expected: usize, found: usize) -> CallError {
    CallError::Answer(format!("{call} answered {found} blobs where {expected} were asked for"))
}

#[cfg(test)]
mod tests {
    use wasmill_frame::BlobsWriter;

    use super::*;

    fn folded(blobs: &[(u32, &str)]) -> Vec<u8> {
        let mut writer = BlobsWriter::new();
        blobs.iter().for_each(|(tag, bytes)| writer.push(*tag, bytes.as_bytes()));
        writer.finish()
    }

    #[test]
    fn a_message_fails_once_or_the_answer_is_wrong() {
        let taken = |blobs: &[(u32, &str)]| {
            Folded::read(&folded(blobs), 1, 3).map(|folded| folded.failed).map_err(|e| e.to_string())
        };
        let failed =
            |failed: &[(usize, &str)]| Ok(failed.iter().map(|(i, r)| (*i, (*r).to_owned())).collect());
        assert_eq!(taken(&[(0, "a")]), failed(&[]));
        // An SDK that goes group by group tells them in that order.
        assert_eq!(taken(&[(0, "a"), (3, "three"), (1, "")]), failed(&[(2, "three"), (0, "")]));
        let wrong: [(&[(u32, &str)], &str); 6] = [
            (&[], "fold answered 0 blobs where 1 were asked for"),
            (&[(1, "a")], "fold answered blob 0 with the tag 1"),
            (&[(0, "a"), (0, "b")], "fold answered blob 1 with the tag 0"),
            (&[(0, "a"), (4, "")], "fold answered blob 1 with the tag 4"),
            (&[(0, "a"), (1, ""), (1, "")], "fold failed message 0 twice"),
            (&[(0, "a"), (1, ""), (2, ""), (3, ""), (1, "")], "fold failed 4 messages of 3"),
        ];
        for (blobs, reason) in wrong {
            assert_eq!(taken(blobs), Err(format!("answered wrongly: {reason}")));
        }
    }
}
