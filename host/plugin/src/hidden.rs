//! Keeps granted secrets out of the reasons that a guest gives for messages: these become dead letters and
//! log lines. What a call as a whole says is hidden where it is read.

use std::sync::Arc;

use wasmill_engine::guest::{CallContext, CallError, Guest, Trial};
use wasmill_frame::{Blobs, BlobsWriter, Edit, Edits, EditsWriter, Frame};

use crate::secrets::Secrets;

/// The guest; where it has secrets, one whose reasons don't have them.
pub(crate) fn without_secrets(guest: Box<dyn Guest>, secrets: &Arc<Secrets>) -> Box<dyn Guest> {
    if secrets.is_empty() { guest } else { Box::new(Hiding { guest, secrets: Arc::clone(secrets) }) }
}

struct Hiding {
    guest: Box<dyn Guest>,
    secrets: Arc<Secrets>,
}

impl Hiding {
    fn has_secret(&self, reason: &str) -> bool {
        self.secrets.hide(reason) != reason
    }

    /// Edits that can't be read are the engine's to refuse.
    fn edits(&self, frame: &[u8], answer: Vec<u8>) -> Vec<u8> {
        let Ok(messages) = Frame::open(frame).map(|f| f.len()) else { return answer };
        let Ok(edits) = Edits::parse(&answer, messages) else { return answer };
        if !edits.iter().any(|(_, edit)| matches!(edit, Edit::Fail(reason) if self.has_secret(reason))) {
            return answer;
        }
        let mut hidden = EditsWriter::with_capacity(messages, answer.len());
        for (index, edit) in edits.iter() {
            match edit {
                Edit::Fail(reason) => hidden.push(index, Edit::Fail(&self.secrets.hide(reason))),
                other => hidden.push(index, other),
            }
        }
        hidden.finish()
    }

    /// Blobs whose tag isn't 0 are reasons.
    fn blobs(&self, answer: Vec<u8>) -> Vec<u8> {
        let Ok(blobs) = Blobs::parse(&answer) else { return answer };
        let reason = |tag: u32, bytes| std::str::from_utf8(bytes).ok().filter(|_| tag != 0);
        if !blobs.iter().any(|(tag, bytes)| reason(tag, bytes).is_some_and(|r| self.has_secret(r))) {
            return answer;
        }
        let mut hidden = BlobsWriter::new();
        for (tag, bytes) in blobs.iter() {
            match reason(tag, bytes) {
                Some(reason) => hidden.push(tag, self.secrets.hide(reason).as_bytes()),
                None => hidden.push(tag, bytes),
            }
        }
        hidden.finish()
    }
}

impl Guest for Hiding {
    fn around(&mut self) -> Option<&mut dyn Guest> {
        Some(self.guest.as_mut())
    }

    fn transform(&mut self, frame: &[u8], cx: &mut CallContext, trial: Trial) -> Result<Vec<u8>, CallError> {
        let answer = self.guest.transform(frame, cx, trial)?;
        Ok(self.edits(frame, answer))
    }

    fn filter(&mut self, frame: &[u8], cx: &mut CallContext, trial: Trial) -> Result<Vec<u8>, CallError> {
        let answer = self.guest.filter(frame, cx, trial)?;
        Ok(self.edits(frame, answer))
    }

    fn fold(
        &mut self,
        frame: &[u8],
        groups: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        let answer = self.guest.fold(frame, groups, cx, trial)?;
        Ok(self.blobs(answer))
    }

    fn scan(
        &mut self,
        frame: &[u8],
        groups: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<(Vec<u8>, Vec<u8>), CallError> {
        let (edits, blobs) = self.guest.scan(frame, groups, cx, trial)?;
        Ok((self.edits(frame, edits), self.blobs(blobs)))
    }

    fn finish(
        &mut self,
        accumulators: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        let answer = self.guest.finish(accumulators, cx, trial)?;
        Ok(self.blobs(answer))
    }
}
