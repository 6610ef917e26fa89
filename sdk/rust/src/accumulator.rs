//! Values as the host keeps them: postcard bytes.

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasmill_frame::BlobsWriter;

use crate::{Aggregate, Result};

/// Reads postcard bytes, in which accumulators are kept: for [`crate::Migrate`].
///
/// # Errors
/// When they are not of this type.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(crate::reason!("{} bytes are left over", rest.len())),
        Err(e) => Err(crate::reason!("{e}")),
    }
}

pub(crate) fn read<A: Aggregate>(bytes: &[u8]) -> Result<A, String> {
    decode(bytes).map_err(|e| {
        format!(
            "an accumulator of {} bytes is no {}: {e}; if its fields were changed, raise STATE_VERSION and implement Migrate",
            bytes.len(),
            std::any::type_name::<A>()
        )
    })
}

pub(crate) fn write(value: &impl Serialize, into: &mut Vec<u8>) -> Result<(), String> {
    postcard::serialize_with_flavor(value, Append(into))
        .map_err(|e| format!("the accumulator can't be written: {e}"))
}

pub(crate) fn push(value: &impl Serialize, into: &mut BlobsWriter) -> Result<(), String> {
    let mut written = Ok(());
    into.push_with(0, |bytes| written = write(value, bytes));
    written
}

struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
