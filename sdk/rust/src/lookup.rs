//! Tables that the pipeline names and the stage is granted: `grants: [{ lookup: [carriers] }]`.
//!
//! ```
//! use wasmill_sdk::prelude::*;
//! use wasmill_sdk::{lookup, testing};
//!
//! #[derive(Deserialize)]
//! struct Carrier {
//!     name: String,
//! }
//!
//! fn name_carrier(message: &mut Message) -> Result<Verdict> {
//!     let code: String = message.json()?;
//!     match lookup::get::<Carrier>("carriers", &code)? {
//!         Some(carrier) => message.set_metadata("carrier", carrier.name),
//!         None => fail!("no carrier {code}"),
//!     }
//!     Ok(Keep)
//! }
//! transform!(name_carrier);
//!
//! let host = testing::Host::new().lookup("carriers", "UA", json!({ "name": "United" }));
//! let united = testing::message("flight").json(json!("UA"));
//! assert_eq!(testing::transform(name_carrier, &united).kept().text("carrier"), Some("United"));
//! # drop(host);
//! ```

use serde::de::DeserializeOwned;
use wasmill_frame::{Blobs, BlobsWriter};

use crate::{Reason, Result, host, json};

fn of(table: &str, cause: &str) -> Reason {
    crate::reason!("lookup {table:?}: {cause}")
}

/// The row of a key, if the table has it. Of a CSV file all its fields are texts.
///
/// # Errors
/// When the table is not granted, or the row is other JSON.
pub fn get<T: DeserializeOwned>(table: &str, key: &str) -> Result<Option<T>> {
    let Some(row) = host::lookup_get(table, key).map_err(|e| of(table, &e))? else { return Ok(None) };
    json::read(&format!("lookup {table:?} of {key:?}"), &row).map(Some)
}

/// The rows of keys, in their order: one host call.
///
/// # Errors
/// When the table is not granted, a row is other JSON, or the rows are more than one call may carry.
pub fn get_all<T: DeserializeOwned, K: AsRef<str>>(
    table: &str,
    keys: impl IntoIterator<Item = K>,
) -> Result<Vec<Option<T>>> {
    let mut asked = BlobsWriter::new();
    for key in keys {
        asked.push(0, key.as_ref().as_bytes());
    }
    let answer = host::lookup_get_many(table, &asked.finish()).map_err(|e| of(table, &e))?;
    let rows = Blobs::parse(&answer).map_err(|e| of(table, &e.to_string()))?;
    let read = |(there, row)| match there {
        1 => json::read(&format!("lookup {table:?}"), row).map(Some),
        _ => Ok(None),
    };
    rows.iter().map(read).collect()
}
