//! Streams that wasmill makes for itself.

use serde_json::json;

use super::api::Done;
use super::link::Link;
use crate::ConnectorError;

/// A stream of wasmill's own.
pub(super) struct OwnStream {
    pub name: &'static str,
    /// What it takes.
    pub subjects: &'static str,
    /// What is in it, for people.
    pub about: &'static str,
    /// How many messages of a subject are kept; -1 for all.
    pub per_subject: i64,
}

impl OwnStream {
    /// Makes it, where it is missing.
    pub async fn make(&self, link: &Link, replicas: u64) -> Result<(), ConnectorError> {
        let Self { name, subjects, about, per_subject } = self;
        if let Some(found) = link.find_stream(name).await? {
            let takes = found.config.subjects.iter().any(|s| s == subjects || s == "wasmill.>" || s == ">");
            return if takes {
                Ok(())
            } else {
                Err(ConnectorError::Fatal(format!(
                    "stream {name} at {} does not take {subjects}, but {}: wasmill keeps there {about}; rename yours, or add that to its subjects",
                    link.address,
                    found.config.subjects.join(", ")
                )))
            };
        }
        let what =
            format!("cannot make stream {name} with the subjects {subjects} (wasmill keeps there {about})");
        let config = json!({
            "name": name,
            "description": format!("wasmill keeps here {about}"),
            "subjects": [subjects],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_msgs": -1,
            "max_bytes": -1,
            "max_msgs_per_subject": per_subject,
            "num_replicas": replicas.max(1),
            "allow_direct": true,
        });
        match link.ask::<Done>(&what, &format!("STREAM.CREATE.{name}"), &config).await? {
            Ok(_) => Ok(()),
            // Another process made it just now.
            Err(_) if link.find_stream(name).await?.is_some() => Ok(()),
            Err(e) => Err(link.refused(&what, &e)),
        }
    }

    /// Forgets what stands under subjects, if it is there.
    pub async fn forget(&self, link: &Link, what: &str, subjects: &str) -> Result<(), ConnectorError> {
        if link.find_stream(self.name).await?.is_none() {
            return Ok(());
        }
        let body = json!({ "filter": subjects });
        let purged = link.ask::<Done>(what, &format!("STREAM.PURGE.{}", self.name), &body).await?;
        purged.map(drop).map_err(|e| link.refused(what, &e))
    }
}
