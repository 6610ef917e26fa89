//! Calls of an aggregate's plugin: every answer checked, the messages that it can't take found.

use wasmill_frame::{BlobsWriter, GroupsWriter};

use crate::answer::{Answer, check, is_json, judged};
use crate::batch::{Batch, slice};
use crate::guest::{
    AggregateInfo, AnswerBounds, CallContext, CallError, Guest, GuestInfo, Judged, PluginRef, Trial,
};
use crate::lane::{GROWN_BYTES_MAX, overgrown};
use crate::stage::{Origins, StageKind, context, verdict};

use super::{Finished, Folded, Item, Unfolded, answered, count_differs};

/// What one call is given of accumulators: what has more is called for in parts.
const GIVEN_BYTES_MAX: usize = 128 << 20;
/// About how much finished values may have together that are in memory at once.
const FINISHED_BYTES_MAX: usize = 64 << 20;

/// An aggregate's plugin as one lane calls it.
pub(crate) struct PluginAggregator {
    plugin: PluginRef,
    guest: Box<dyn Guest>,
    stage: String,
    initial: Vec<u8>,
    /// Whether a scan may give no message another key.
    pub keeps_keys: bool,
    /// What was made of what it was asked for at once.
    made_bytes: usize,
    /// The most of that since a step began.
    pub most_made_bytes: usize,
}

impl PluginAggregator {
    pub fn new(stage: &str, plugin: &PluginRef) -> Self {
        let initial = plugin.info().aggregate.as_ref().map(|a: &AggregateInfo| a.initial.clone());
        Self {
            guest: plugin.guest(),
            plugin: plugin.clone(),
            stage: stage.to_owned(),
            initial: initial.unwrap_or_default(),
            keeps_keys: false,
            made_bytes: 0,
            most_made_bytes: 0,
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
        self.made_bytes = 0;
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
        self.made_bytes = 0;
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

    /// One call. It sees the messages that it is about and no others, as the only ones of its frame: what becomes
    /// of them must not depend on what stands beside them in the batch.
    fn try_fold(
        &mut self,
        (batch, origins): (&Batch, Origins<'_>),
        items: &[Item],
        accumulators: &mut [Vec<u8>],
        answers: Option<&mut Vec<Answer>>,
        unfolded: &mut Vec<Unfolded>,
        trial: Trial,
    ) -> Result<(), CallError> {
        debug_assert!(items.is_sorted_by_key(|(index, _)| *index), "items rise");
        // The call's messages by their place in its frame.
        let mut called: Vec<usize> = Vec::with_capacity(items.len());
        // Their places by accumulator, in the order in which each accumulator first appears.
        let mut slots: Vec<Option<usize>> = vec![None; accumulators.len()];
        let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
        for &(index, accumulator) in items {
            if called.last() != Some(&index) {
                called.push(index);
            }
            let slot = *slots[accumulator].get_or_insert_with(|| {
                groups.push((accumulator, Vec::new()));
                groups.len() - 1
            });
            groups[slot].1.push(called.len() - 1);
        }
        let given: Vec<&[u8]> = groups.iter().map(|(at, _)| accumulators[*at].as_slice()).collect();
        fits_a_call(&given, 1)?;
        let mut writer = GroupsWriter::new();
        for (accumulator, places) in &groups {
            writer.push(&accumulators[*accumulator], places.iter().copied());
        }
        let mut cx = context(self.plugin.info(), &self.stage, batch, called.iter().copied(), origins);
        let part;
        let frame = if called.len() == batch.len() {
            &batch.frame
        } else {
            part = slice(&batch.frame, called.iter().copied());
            &part
        };
        let (edits, blobs) = if answers.is_some() {
            let (edits, blobs) = self.guest.scan(frame.as_bytes(), &writer.finish(), &mut cx, trial)?;
            let bounds = AnswerBounds { keeps_keys: self.keeps_keys, ..self.plugin.bounds() };
            let checked = check(&edits, called.len(), StageKind::Transform, bounds, |i| frame.get(i))
                .inspect_err(|error| self.guest.refused(error))?;
            (Some((edits, checked)), blobs)
        } else {
            (None, self.guest.fold(frame.as_bytes(), &writer.finish(), &mut cx, trial)?)
        };
        let Folded { accumulators: folded, failed } = Folded::read(&blobs, groups.len(), called.len())
            .inspect_err(|error| self.guest.refused(error))?;
        let of_edits = edits.as_ref().map(|(_, checked)| checked);
        if self.plugin.tries().doubts_errors() {
            let first = of_edits.and_then(|checked| checked.first_error.as_ref());
            if let Some(reason) = first.or(failed.first().map(|(_, reason)| reason)) {
                return Err(CallError::Refused(reason.clone()));
            }
        }
        let mut all_failed: Vec<usize> = failed.iter().map(|(place, _)| *place).collect();
        all_failed.extend(of_edits.into_iter().flat_map(|checked| &checked.failed));
        all_failed.sort_unstable();
        self.guest.judged(judged(0..called.len(), &all_failed));
        let mut made = of_edits.map_or(0, |checked| checked.bytes);
        for ((accumulator, _), bytes) in groups.iter().zip(folded) {
            made += bytes.len().saturating_sub(accumulators[*accumulator].len());
            accumulators[*accumulator].clear();
            accumulators[*accumulator].extend_from_slice(bytes);
        }
        self.make(made + failed.iter().map(|(_, reason)| reason.len()).sum::<usize>());
        unfolded.extend(failed.into_iter().map(|(place, reason)| Unfolded {
            index: called[place],
            kind: "error",
            reason,
            attempts: 1,
        }));
        if let (Some(answers), Some((bytes, checked))) = (answers, edits) {
            // Whoever scans asks about all messages of a batch, so those of a call stand together.
            let range = called[0]..called[0] + called.len();
            debug_assert_eq!(called.last(), Some(&(range.end - 1)), "a scan of scattered messages");
            answers.push(Answer::Edits { range, bytes, emits: checked.emits });
        }
        Ok(())
    }

    /// Merges accumulators two by two, the right one into the left one. A pair that can't be merged is
    /// found by halving.
    pub fn merge(&mut self, pairs: &[(&[u8], &[u8])]) -> Vec<Result<Vec<u8>, String>> {
        self.made_bytes = 0;
        let mut merged = Vec::with_capacity(pairs.len());
        self.merge_some(pairs, &mut merged);
        merged
    }

    fn merge_some(&mut self, pairs: &[(&[u8], &[u8])], merged: &mut Vec<Result<Vec<u8>, String>>) {
        let tried = match self.try_merge(pairs, Trial::Batch) {
            Err(_) if pairs.len() > 1 => {
                let (front, back) = pairs.split_at(pairs.len() / 2);
                self.merge_some(front, merged);
                return self.merge_some(back, merged);
            }
            Err(_) => self.try_merge(pairs, Trial::Verdict),
            tried => tried,
        };
        match tried {
            Ok(values) => {
                self.make(values.iter().map(Vec::len).sum());
                merged.extend(values.into_iter().map(Ok));
            }
            Err(error) => merged.push(Err(verdict(error).1)),
        }
    }

    /// So many bytes more were made of what was asked for at once.
    fn make(&mut self, bytes: usize) {
        self.made_bytes += bytes;
        self.most_made_bytes = self.most_made_bytes.max(self.made_bytes);
        if self.made_bytes > GROWN_BYTES_MAX {
            overgrown(&format!("the stage `{}`", self.stage));
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

    /// Finishes accumulators, the first and as many behind it as have room: a JSON value or a reason for each. One
    /// that traps is found by halving, and then each call may answer as much as one for all.
    pub fn finish(&mut self, accumulators: &[&[u8]]) -> Vec<Finished> {
        let (mut values, mut bytes) = (Vec::new(), 0);
        self.finish_some(accumulators, &mut values, &mut bytes);
        values
    }

    fn finish_some(&mut self, accumulators: &[&[u8]], values: &mut Vec<Finished>, bytes: &mut usize) {
        if *bytes > FINISHED_BYTES_MAX {
            return;
        }
        let finished = match self.try_finish(accumulators, Trial::Batch) {
            Ok(finished) => finished,
            Err(_) if accumulators.len() > 1 => {
                let (front, back) = accumulators.split_at(accumulators.len() / 2);
                self.finish_some(front, values, bytes);
                return self.finish_some(back, values, bytes);
            }
            Err(_) => self.try_finish(accumulators, Trial::Verdict).unwrap_or_else(|error| {
                let (kind, reason) = verdict(error);
                vec![Err((reason, kind))]
            }),
        };
        *bytes +=
            finished.iter().map(|value| value.as_ref().map_or_else(|e| e.0.len(), Vec::len)).sum::<usize>();
        values.extend(finished);
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use wasmill_frame::{Edit, EditsWriter, Frame, Groups, Parts};

    use super::*;
    use crate::guest::{Kinds, Plugin};
    use crate::position::PartitionId;

    /// What one call was asked: the payloads of its frame, the seeds of its facts, and how.
    type Call = (String, Vec<u64>, Trial);

    /// Appends each message's payload to its accumulator. Traps where any message of the frame, whosever, is an `x`,
    /// and fails an `f`; a scan sets the type of each message to what its accumulator is.
    #[derive(Clone)]
    struct Letters {
        info: GuestInfo,
        calls: Arc<Mutex<Vec<Call>>>,
    }

    impl Letters {
        fn new() -> Self {
            let kinds = Kinds { aggregate: true, scan: true, ..Kinds::default() };
            let aggregate = Some(AggregateInfo::default());
            let info = GuestInfo { kinds, aggregate, needs_facts: true, ..GuestInfo::default() };
            Self { info, calls: Arc::default() }
        }

        fn aggregator(&self) -> PluginAggregator {
            let plugin: PluginRef = Arc::new(self.clone());
            PluginAggregator::new("letters", &plugin)
        }

        fn take_calls(&self) -> Vec<Call> {
            std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    impl Plugin for Letters {
        fn info(&self) -> &GuestInfo {
            &self.info
        }
        fn guest(&self) -> Box<dyn Guest> {
            Box::new(self.clone())
        }
    }

    impl Guest for Letters {
        fn fold(
            &mut self,
            frame: &[u8],
            groups: &[u8],
            cx: &mut CallContext,
            trial: Trial,
        ) -> Result<Vec<u8>, CallError> {
            self.scan(frame, groups, cx, trial).map(|(_, blobs)| blobs)
        }

        fn scan(
            &mut self,
            frame: &[u8],
            groups: &[u8],
            cx: &mut CallContext,
            trial: Trial,
        ) -> Result<(Vec<u8>, Vec<u8>), CallError> {
            let frame = Frame::parse(frame).expect("a frame");
            let letters: Vec<&str> =
                frame.iter().map(|m| std::str::from_utf8(m.payload()).expect("a letter")).collect();
            let seeds = cx.facts.iter().map(|fact| fact.seed).collect();
            let call = (letters.concat(), seeds, trial);
            self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
            if letters.contains(&"x") {
                return Err(CallError::Trap("an x".to_owned()));
            }
            let (mut blobs, mut failed) = (BlobsWriter::new(), Vec::new());
            let mut kinds = vec![String::new(); frame.len()];
            for group in Groups::parse(groups, frame.len()).expect("groups").iter() {
                let mut sum = String::from_utf8_lossy(group.accumulator).into_owned();
                for place in group.indices() {
                    match letters[place] {
                        "f" => failed.push(place),
                        letter => sum.push_str(letter),
                    }
                    kinds[place].clone_from(&sum);
                }
                blobs.push(0, sum.as_bytes());
            }
            for place in &failed {
                blobs.push(u32::try_from(place + 1).expect("few"), b"an f");
            }
            let mut edits = EditsWriter::new(frame.len());
            for (place, kind) in kinds.iter().enumerate().filter(|(place, _)| !failed.contains(place)) {
                edits.push(place, Edit::Kind(kind));
            }
            Ok((edits.finish(), blobs.finish()))
        }

        /// Traps where there is more than one, and answers what it is given.
        fn finish(
            &mut self,
            accumulators: &[u8],
            _: &mut CallContext,
            _: Trial,
        ) -> Result<Vec<u8>, CallError> {
            match wasmill_frame::Blobs::parse(accumulators).expect("blobs").len() {
                1 => Ok(accumulators.to_vec()),
                n => Err(CallError::Trap(format!("{n} at once"))),
            }
        }
    }

    fn batch(letters: &str) -> Batch {
        let mut batch = Batch::with_capacity(PartitionId { source: 0, partition: 0 }, 0, letters.len(), 0);
        for (offset, letter) in (0..).zip(letters.chars()) {
            batch.push(
                &Parts {
                    id: "",
                    kind: "",
                    key: None,
                    payload: letter.to_string().as_bytes(),
                    timestamp: 0,
                    metadata: b"",
                    payload_is_json: false,
                },
                offset,
            );
        }
        batch
    }

    /// Folds all of these messages into one accumulator; gives that, and which failed of which kind.
    fn fold(aggregator: &mut PluginAggregator, letters: &str) -> (String, Vec<(usize, &'static str)>) {
        let items: Vec<Item> = (0..letters.len()).map(|index| (index, 0)).collect();
        let mut sums = vec![Vec::new()];
        let unfolded = aggregator.fold(&batch(letters), Origins::Source, &items, &mut sums);
        let failed = unfolded.iter().map(|u| (u.index, u.kind)).collect();
        (String::from_utf8_lossy(&sums[0]).into_owned(), failed)
    }

    #[test]
    fn a_verdict_is_about_one_message_whatever_stands_beside_it() {
        let letters = Letters::new();
        let mut aggregator = letters.aggregator();
        assert_eq!(
            fold(&mut aggregator, "abxcdfxe"),
            ("abcde".to_owned(), vec![(2, "trap"), (5, "error"), (6, "trap")])
        );
        let calls = letters.take_calls();
        assert_eq!(calls[0].0, "abxcdfxe", "the batch comes whole");
        let seeds = &calls[0].1;
        let verdicts: Vec<&Call> = calls.iter().filter(|(_, _, trial)| *trial == Trial::Verdict).collect();
        let expected = [2, 6].map(|index| ("x".to_owned(), vec![seeds[index]], Trial::Verdict));
        assert_eq!(verdicts, expected.iter().collect::<Vec<_>>(), "one message, and what it is told");
        // A half is given its own half: what fails costs no more than its logarithm.
        assert!(calls.iter().map(|(frame, _, _)| frame.len()).sum::<usize>() <= 8 * 5, "{calls:?}");
    }

    #[test]
    fn what_is_folded_does_not_depend_on_how_batches_are_cut() {
        for at in 0..8 {
            let mut aggregator = Letters::new().aggregator();
            let (front, mut failed) = fold(&mut aggregator, &"abxcdfxe"[..at]);
            let (back, more) = fold(&mut aggregator, &"abxcdfxe"[at..]);
            failed.extend(more.into_iter().map(|(index, kind)| (at + index, kind)));
            assert_eq!((front + &back, failed), fold(&mut aggregator, "abxcdfxe"), "cut at {at}");
        }
    }

    #[test]
    fn a_call_sees_its_own_messages_alone() {
        let letters = Letters::new();
        let items = [(1, 1), (3, 0), (5, 1)];
        let mut sums = vec![b"0".to_vec(), b"1".to_vec()];
        let unfolded = letters.aggregator().fold(&batch("xaxbxf"), Origins::Source, &items, &mut sums);
        assert_eq!(sums, [b"0b".to_vec(), b"1a".to_vec()]);
        assert_eq!(unfolded.iter().map(|u| (u.index, u.kind)).collect::<Vec<_>>(), [(5, "error")]);
        assert_eq!(letters.take_calls()[0].0, "abf");
    }

    #[test]
    fn a_scan_in_parts_says_its_own_of_each_message() {
        let letters = Letters::new();
        let batch = batch("abxc");
        let items = [(0, 0), (1, 0), (2, 0), (3, 0)];
        let (mut sums, mut answers) = (vec![Vec::new()], Vec::new());
        let unfolded = letters.aggregator().scan(&batch, Origins::Source, &items, &mut sums, &mut answers);
        assert_eq!(unfolded.iter().map(|u| u.index).collect::<Vec<_>>(), [2]);
        let said: Vec<(usize, String)> = answers
            .iter()
            .flat_map(|answer| match answer {
                Answer::Edits { range, bytes, .. } => {
                    let edits = wasmill_frame::Edits::parse(bytes, range.len()).expect("edits");
                    edits.iter().map(|(i, edit)| (range.start + i, format!("{edit:?}"))).collect::<Vec<_>>()
                }
                Answer::Failed { .. } => Vec::new(),
            })
            .collect();
        let expected = [(0, "a"), (1, "ab"), (3, "abc")].map(|(i, kind)| (i, format!("Kind({kind:?})")));
        assert_eq!(said, expected);
    }

    #[test]
    fn as_many_values_are_finished_at_once_as_have_room() {
        let mut aggregator = Letters::new().aggregator();
        let small: [&[u8]; 3] = [b"1", b"2", b"3"];
        let values = aggregator.finish(&small);
        assert_eq!(
            values,
            [b"1", b"2", b"3"].map(|value| Ok(value.to_vec())),
            "one by one, and in their order"
        );
        // A text of a length of its own.
        let large = format!("\"{}\"", "a".repeat(FINISHED_BYTES_MAX / 2)).into_bytes();
        for last in [2, 3] {
            let all = vec![large.as_slice(); last];
            assert_eq!(aggregator.finish(&all).len(), last.min(2), "of {last}");
        }
    }

    #[test]
    fn a_call_is_given_what_a_layout_can_hold() {
        let large = vec![0; GIVEN_BYTES_MAX / 2 + 1];
        assert!(fits_a_call(&[&large], 1).is_ok());
        assert!(fits_a_call(&[&large, b"small"], 1).is_ok());
        assert!(fits_a_call(&[&large, &large], 1).is_err(), "two by two are too many");
        assert!(fits_a_call(&[&large, &large], 2).is_ok(), "a pair can't be parted");
    }
}
