//! Calls of an aggregate's plugin: every answer checked, the messages that it can't take found.

use wasmill_frame::{Blobs, BlobsWriter, Edits, GroupsWriter};

use crate::answer::{Answer, check, is_json, judged};
use crate::batch::Batch;
use crate::guest::{AggregateInfo, CallContext, CallError, Guest, GuestInfo, Judged, PluginRef, Trial};
use crate::stage::{Origins, StageKind, context, verdict};

use super::{Finished, Item, Unfolded};

/// What one call is given of accumulators: what has more is called for in parts.
const GIVEN_BYTES_MAX: usize = 128 << 20;
/// What one call may answer of them, where the same bytes count as often as they are meant: blobs may share them.
const ANSWERED_BYTES_MAX: usize = 128 << 20;

/// An aggregate's plugin as one lane calls it.
pub(crate) struct PluginAggregator {
    plugin: PluginRef,
    guest: Box<dyn Guest>,
    stage: String,
    initial: Vec<u8>,
}

impl PluginAggregator {
    pub fn new(stage: &str, plugin: &PluginRef) -> Self {
        let initial = plugin.info().aggregate.as_ref().map(|a: &AggregateInfo| a.initial.clone());
        Self {
            guest: plugin.guest(),
            plugin: plugin.clone(),
            stage: stage.to_owned(),
            initial: initial.unwrap_or_default(),
        }
    }

    pub fn info(&self) -> &GuestInfo {
        self.plugin.info()
    }

    /// The accumulator of no messages.
    pub fn initial(&self) -> &[u8] {
        &self.initial
    }

    /// Folds messages into accumulators, in the items' order for each accumulator.
    pub fn fold(
        &mut self,
        batch: &Batch,
        origins: Origins<'_>,
        items: &[Item],
        accumulators: &mut [Vec<u8>],
    ) -> Vec<Unfolded> {
        let mut unfolded = Vec::new();
        self.fold_some((batch, origins), items, accumulators, None, &mut unfolded);
        unfolded
    }

    /// Folds messages, and collects what the plugin has to say to each.
    pub fn scan(
        &mut self,
        batch: &Batch,
        origins: Origins<'_>,
        items: &[Item],
        accumulators: &mut [Vec<u8>],
        answers: &mut Vec<Answer>,
    ) -> Vec<Unfolded> {
        let mut unfolded = Vec::new();
        self.fold_some((batch, origins), items, accumulators, Some(answers), &mut unfolded);
        unfolded
    }

    fn fold_some(
        &mut self,
        batch: (&Batch, Origins<'_>),
        items: &[Item],
        accumulators: &mut [Vec<u8>],
        mut answers: Option<&mut Vec<Answer>>,
        unfolded: &mut Vec<Unfolded>,
    ) {
        if items.is_empty() {
            return;
        }
        let tried = self.try_fold(batch, items, accumulators, answers.as_deref_mut(), unfolded, Trial::Batch);
        if tried.is_ok() {
            return;
        }
        if items.len() > 1 {
            let (front, back) = items.split_at(items.len() / 2);
            self.fold_some(batch, front, accumulators, answers.as_deref_mut(), unfolded);
            return self.fold_some(batch, back, accumulators, answers, unfolded);
        }
        let tries = self.plugin.tries();
        let mut tried = 1;
        loop {
            let verdict_of =
                self.try_fold(batch, items, accumulators, answers.as_deref_mut(), unfolded, Trial::Verdict);
            match verdict_of {
                Ok(()) => return,
                Err(error) if tries.again(tried, &error) => self.guest.pause(tried),
                Err(error) => {
                    let (kind, reason) = verdict(error);
                    self.guest.judged(Judged { passed: false, failed: 1 });
                    // The one among others counts too.
                    return unfolded.push(Unfolded { index: items[0].0, kind, reason, attempts: tried + 1 });
                }
            }
            tried += 1;
        }
    }

    fn try_fold(
        &mut self,
        (batch, origins): (&Batch, Origins<'_>),
        items: &[Item],
        accumulators: &mut [Vec<u8>],
        answers: Option<&mut Vec<Answer>>,
        unfolded: &mut Vec<Unfolded>,
        trial: Trial,
    ) -> Result<(), CallError> {
        // Messages by accumulator, in the order in which each accumulator first appears.
        let mut slots: Vec<Option<usize>> = vec![None; accumulators.len()];
        let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
        for &(index, accumulator) in items {
            let slot = *slots[accumulator].get_or_insert_with(|| {
                groups.push((accumulator, Vec::new()));
                groups.len() - 1
            });
            groups[slot].1.push(index);
        }
        let given: Vec<&[u8]> = groups.iter().map(|(at, _)| accumulators[*at].as_slice()).collect();
        fits_a_call(&given, 1)?;
        let mut writer = GroupsWriter::new();
        for (accumulator, indices) in &groups {
            writer.push(&accumulators[*accumulator], indices.iter().copied());
        }
        let mut cx = context(self.plugin.info(), &self.stage, batch, 0..batch.len(), origins);
        let frame = batch.frame.as_bytes();
        let (edits, blobs) = if answers.is_some() {
            let (edits, blobs) = self.guest.scan(frame, &writer.finish(), &mut cx, trial)?;
            let message = |i: usize| batch.frame.get(i);
            let asked = |index| items.binary_search_by_key(&index, |(i, _)| *i).is_ok();
            let checked = check(&edits, batch.len(), StageKind::Transform, self.plugin.bounds(), message)
                .and_then(|checked| match Edits::open(&edits).iter().all(|(index, _)| asked(index)) {
                    true => Ok(checked),
                    false => Err(CallError::Answer("scan edited a message that is in no group".to_owned())),
                })
                .inspect_err(|error| self.guest.refused(error))?;
            (Some((edits, checked)), blobs)
        } else {
            (None, self.guest.fold(frame, &writer.finish(), &mut cx, trial)?)
        };
        let (folded, failed) =
            read_folded(&blobs, groups.len(), batch.len()).inspect_err(|error| self.guest.refused(error))?;
        let of_edits = edits.as_ref().map(|(_, checked)| checked);
        if self.plugin.tries().doubts_errors() {
            let first = of_edits.and_then(|checked| checked.first_error.as_ref());
            if let Some(reason) = first.or(failed.first().map(|(_, reason)| reason)) {
                return Err(CallError::Refused(reason.clone()));
            }
        }
        let mut all_failed: Vec<usize> = failed.iter().map(|(index, _)| *index).collect();
        all_failed.extend(of_edits.into_iter().flat_map(|checked| &checked.failed));
        all_failed.sort_unstable();
        self.guest.judged(judged(items.iter().map(|(index, _)| *index), &all_failed));
        for ((accumulator, _), bytes) in groups.iter().zip(folded) {
            accumulators[*accumulator].clear();
            accumulators[*accumulator].extend_from_slice(bytes);
        }
        unfolded.extend(failed.into_iter().map(|(index, reason)| Unfolded {
            index,
            kind: "error",
            reason,
            attempts: 1,
        }));
        if let (Some(answers), Some((bytes, checked))) = (answers, edits) {
            answers.push(Answer::Edits { range: 0..batch.len(), bytes, emits: checked.emits });
        }
        Ok(())
    }

    /// Merges accumulators two by two, the right one into the left one. A pair that can't be merged is
    /// found by halving.
    pub fn merge(&mut self, pairs: &[(&[u8], &[u8])]) -> Vec<Result<Vec<u8>, String>> {
        match self.try_merge(pairs, Trial::Batch) {
            Ok(merged) => merged.into_iter().map(Ok).collect(),
            Err(_) if pairs.len() > 1 => {
                let (front, back) = pairs.split_at(pairs.len() / 2);
                let mut merged = self.merge(front);
                merged.extend(self.merge(back));
                merged
            }
            Err(_) => match self.try_merge(pairs, Trial::Verdict) {
                Ok(merged) => merged.into_iter().map(Ok).collect(),
                Err(e) => vec![Err(verdict(e).1)],
            },
        }
    }

    fn try_merge(&mut self, pairs: &[(&[u8], &[u8])], trial: Trial) -> Result<Vec<Vec<u8>>, CallError> {
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let given: Vec<&[u8]> = pairs.iter().flat_map(|(left, right)| [*left, *right]).collect();
        fits_a_call(&given, 2)?;
        let mut writer = BlobsWriter::new();
        given.iter().for_each(|bytes| writer.push(0, bytes));
        let answer = self.guest.merge(&writer.finish(), &mut CallContext::default(), trial)?;
        read_merged(&answer, pairs.len()).inspect_err(|error| self.guest.refused(error))
    }

    /// Finishes accumulators: a JSON value or a reason for each. One that traps is found by halving.
    pub fn finish(&mut self, accumulators: &[&[u8]]) -> Vec<Finished> {
        match self.try_finish(accumulators, Trial::Batch) {
            Ok(values) => values,
            Err(_) if accumulators.len() > 1 => {
                let (front, back) = accumulators.split_at(accumulators.len() / 2);
                let mut values = self.finish(front);
                values.extend(self.finish(back));
                values
            }
            Err(_) => match self.try_finish(accumulators, Trial::Verdict) {
                Ok(values) => values,
                Err(e) => {
                    let (kind, reason) = verdict(e);
                    vec![Err((reason, kind))]
                }
            },
        }
    }

    fn try_finish(&mut self, accumulators: &[&[u8]], trial: Trial) -> Result<Vec<Finished>, CallError> {
        fits_a_call(accumulators, 1)?;
        let mut writer = BlobsWriter::new();
        for bytes in accumulators {
            writer.push(0, bytes);
        }
        let answer = self.guest.finish(&writer.finish(), &mut CallContext::default(), trial)?;
        read_finished(&answer, accumulators.len()).inspect_err(|error| self.guest.refused(error))
    }
}

/// Whether accumulators can be given to one call; `least` of them always can.
fn fits_a_call(accumulators: &[&[u8]], least: usize) -> Result<(), CallError> {
    let bytes = accumulators.iter().map(|a| a.len()).sum::<usize>();
    if accumulators.len() > least && bytes > GIVEN_BYTES_MAX {
        // Nobody is told: what asks goes on with a part.
        return Err(CallError::Refused(format!("{bytes} bytes of accumulators are too many for one call")));
    }
    Ok(())
}

/// The blobs of an answer, with what they mean bounded.
fn answered(bytes: &[u8]) -> Result<Blobs<'_>, CallError> {
    let blobs = Blobs::parse(bytes).map_err(|m| CallError::Answer(m.to_string()))?;
    let meant = blobs.iter().map(|(_, blob)| blob.len()).fold(0, usize::saturating_add);
    if meant > ANSWERED_BYTES_MAX {
        return Err(CallError::Answer(format!(
            "blobs that share bytes, and mean {meant} together; up to {ANSWERED_BYTES_MAX} may be"
        )));
    }
    Ok(blobs)
}

/// Reads what merge answers: an accumulator for each pair.
fn read_merged(bytes: &[u8], pairs: usize) -> Result<Vec<Vec<u8>>, CallError> {
    let blobs = answered(bytes)?;
    if blobs.len() != pairs {
        return Err(count_differs("merge", pairs, blobs.len()));
    }
    let merged = blobs.iter().map(|(tag, bytes)| match tag {
        0 => Ok(bytes.to_vec()),
        tag => Err(CallError::Answer(format!("merge answered a blob with the tag {tag}"))),
    });
    merged.collect()
}

/// Reads what finish answers: a value or a reason for each accumulator.
fn read_finished(bytes: &[u8], accumulators: usize) -> Result<Vec<Finished>, CallError> {
    let blobs = answered(bytes)?;
    if blobs.len() != accumulators {
        return Err(count_differs("finish", accumulators, blobs.len()));
    }
    let finished = blobs.iter().map(|(tag, bytes)| match tag {
        0 if is_json(bytes) => Ok(bytes.to_vec()),
        0 => Err(("finish answered a value that is not JSON".to_owned(), "answer")),
        _ => Err((String::from_utf8_lossy(bytes).into_owned(), "error")),
    });
    Ok(finished.collect())
}

fn count_differs(call: &str, expected: usize, found: usize) -> CallError {
    CallError::Answer(format!("{call} answered {found} blobs where {expected} were asked for"))
}

type Folded<'a> = (Vec<&'a [u8]>, Vec<(usize, String)>);

/// Reads what fold answers: the accumulators, then the messages that failed.
fn read_folded(bytes: &[u8], groups: usize, messages: usize) -> Result<Folded<'_>, CallError> {
    let blobs = answered(bytes)?;
    if blobs.len() < groups {
        return Err(count_differs("fold", groups, blobs.len()));
    }
    let mut accumulators = Vec::with_capacity(groups);
    let mut failed = Vec::new();
    for (i, (tag, blob)) in blobs.iter().enumerate() {
        match (i < groups, tag as usize) {
            (true, 0) => accumulators.push(blob),
            (false, tag) if tag > 0 && tag <= messages => {
                failed.push((tag - 1, String::from_utf8_lossy(blob).into_owned()));
            }
            _ => return Err(CallError::Answer(format!("fold answered blob {i} with the tag {tag}"))),
        }
    }
    Ok((accumulators, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_given_what_a_layout_can_hold() {
        let large = vec![0; GIVEN_BYTES_MAX / 2 + 1];
        assert!(fits_a_call(&[&large], 1).is_ok());
        assert!(fits_a_call(&[&large, b"small"], 1).is_ok());
        assert!(fits_a_call(&[&large, &large], 1).is_err(), "two by two are too many");
        assert!(fits_a_call(&[&large, &large], 2).is_ok(), "a pair can't be parted");
    }

    #[test]
    fn blobs_that_share_their_bytes_count_as_often_as_they_are_meant() {
        let sharing = |blobs: u32| {
            let mut bytes = b"WML1\x01\0\0\0".to_vec();
            bytes.extend_from_slice(&blobs.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            for _ in 0..blobs {
                for field in [0, 0, 1 << 20] {
                    bytes.extend_from_slice(&u32::to_le_bytes(field));
                }
            }
            bytes.resize(bytes.len() + (1 << 20), b'x');
            bytes
        };
        assert_eq!(read_folded(&sharing(3), 3, 1).expect("three times the same").0.len(), 3);
        let error = read_folded(&sharing(129), 129, 1).expect_err("129 MiB of 1 MiB");
        assert!(error.kind() == "answer" && error.to_string().contains("share bytes"), "{error}");
    }
}
