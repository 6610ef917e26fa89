//! What the database's keys are, and its values with their hashes.

use std::path::Path;

use fjall::{Keyspace, OwnedWriteBatch};
use wasmill_engine::state::{Checkpoint, Epoch, StoreError};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::failure::{corrupt, guarded};
use crate::store::witness;

pub(super) const CHECKPOINT: &[u8] = b"c";
pub(super) const FORETOLD: &[u8] = b"f";
pub(super) const BATCHES: &[u8] = b"n";
const ENTRY: u8 = b's';
const HASH_BYTES: usize = 8;

pub(super) fn entry(key: &[u8]) -> Vec<u8> {
    let mut entry = Vec::with_capacity(key.len() + 1);
    entry.push(ENTRY);
    entry.extend_from_slice(key);
    entry
}

pub(super) fn hash(key: &[u8], value: &[u8]) -> [u8; HASH_BYTES] {
    xxh3_64_with_seed(value, xxh3_64(key)).to_le_bytes()
}

pub(super) fn put_foretold(batch: &mut OwnedWriteBatch, keyspace: &Keyspace, epoch: Epoch, facts: &[u8]) {
    let mut value = epoch.to_le_bytes().to_vec();
    value.extend_from_slice(facts);
    batch.insert(keyspace, FORETOLD, hashed(FORETOLD, &value));
}

pub(super) fn hashed(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + HASH_BYTES);
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(&hash(key, value));
    bytes
}

pub(super) fn checked<'a>(directory: &Path, key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], StoreError> {
    match stored.split_last_chunk::<HASH_BYTES>() {
        Some((value, sum)) if *sum == hash(key, value) => Ok(value),
        _ => Err(corrupt(directory, "a value doesn't have its hash".into())),
    }
}

pub(super) fn read(directory: &Path, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    match guarded(directory, || keyspace.get(key))? {
        Some(stored) => checked(directory, key, &stored).map(|value| Some(value.to_vec())),
        None => Ok(None),
    }
}

pub(super) fn slot_key(slot: u64) -> Vec<u8> {
    let slot = u16::try_from(slot).unwrap_or(u16::MAX);
    [&b"w"[..], &slot.to_be_bytes()].concat()
}

/// How many batches were written, after a look at the proof that all of them are there.
pub(super) fn read_batches(directory: &Path, keyspace: &Keyspace) -> Result<u64, StoreError> {
    let number = |key: &[u8]| -> Result<Option<u64>, StoreError> {
        let stored = read(directory, keyspace, key)?;
        Ok(stored.and_then(|bytes| bytes.first_chunk().map(|b| u64::from_le_bytes(*b))))
    };
    let batches = number(BATCHES)?.unwrap_or(0);
    for (slot, expected) in witness::expected(batches) {
        if number(&slot_key(slot))? != expected {
            let cause = format!("of {batches} batches in the log, one is missing or out of its order");
            return Err(corrupt(directory, cause));
        }
    }
    Ok(batches)
}

pub(super) fn read_checkpoint(
    directory: &Path,
    keyspace: &Keyspace,
) -> Result<Option<Checkpoint>, StoreError> {
    decode_checkpoint(directory, read(directory, keyspace, CHECKPOINT)?)
}

pub(super) fn decode_checkpoint(
    directory: &Path,
    stored: Option<Vec<u8>>,
) -> Result<Option<Checkpoint>, StoreError> {
    stored
        .map(|json| serde_json::from_slice(&json).map_err(|e| corrupt(directory, format!("checkpoint: {e}"))))
        .transpose()
}

pub(super) fn read_foretold(
    directory: &Path,
    keyspace: &Keyspace,
) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
    decode_foretold(directory, read(directory, keyspace, FORETOLD)?)
}

pub(super) fn decode_foretold(
    directory: &Path,
    stored: Option<Vec<u8>>,
) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
    stored
        .map(|value| match value.split_first_chunk::<8>() {
            Some((epoch, facts)) => Ok((Epoch::from_le_bytes(*epoch), facts.to_vec())),
            None => Err(corrupt(directory, "what was foretold lacks its epoch".into())),
        })
        .transpose()
}
