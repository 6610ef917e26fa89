//! The registration table: one line a codec.
//!
//! A codec is a module with its settings, which is a struct that serde reads and whose comments are the users'
//! documentation, and a line below. From the lines comes [`CodecSpec`], which a pipeline spec holds beside a
//! connector: `codec: { csv: { separator: ";" } }`, or `codec: csv` alone where a codec needs nothing.

use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bounded::{BoundedDecoder, BoundedWriter};
use crate::{CodecError, Reading, Writing};

/// The settings of a codec.
#[async_trait]
pub trait CodecSettings: DeserializeOwned + Serialize + JsonSchema + Send + Sync {
    /// The schema of the payloads, as plugins see them, as JSON Schema; none where nothing is declared, or
    /// only a registry knows it.
    ///
    /// # Errors
    /// What is wrong with a file of the settings.
    fn declared(&self) -> Result<Option<serde_json::Value>, CodecError> {
        Ok(None)
    }
    /// The half that reads. `name` is what is read: a topic, a subject, a stream, a path.
    ///
    /// # Errors
    /// What is wrong with the settings, or that a registry is away.
    async fn reading(&self, name: &str) -> Result<Reading, CodecError>;
    /// The half that writes. `name` is what is written: a topic, a subject, a stream, a path.
    ///
    /// # Errors
    /// As of `reading`.
    async fn writing(&self, name: &str) -> Result<Writing, CodecError>;
}

crate::named! {
    /// A codec in a pipeline spec.
    CodecSpec, CodecOf, "codec":
    "json" => Json(crate::json::JsonSettings);
    "json_body" => JsonBody(crate::json_body::JsonBodySettings);
    "raw" => Raw(crate::raw::RawSettings);
    "text" => Text(crate::text::TextSettings);
    "csv" => Csv(crate::csv::CsvSettings);
    "cloudevents" => CloudEvents(crate::cloudevents::CloudEventsSettings);
    "json_schema" => JsonSchema(crate::json_schema::JsonSchemaSettings);
    "messagepack" => MessagePack(crate::messagepack::MessagePackSettings);
    "protobuf" => Protobuf(crate::protobuf::ProtobufSettings);
    "avro" => Avro(crate::avro::AvroSettings);
}

impl Default for CodecSpec {
    fn default() -> Self {
        Self::Json(crate::json::JsonSettings::default())
    }
}

impl CodecSpec {
    /// The schema of the payloads, as JSON Schema, where one is declared.
    ///
    /// # Errors
    /// What is wrong with a file of the settings.
    pub fn declared(&self) -> Result<Option<serde_json::Value>, CodecError> {
        self.spec().schema()
    }

    /// The half that reads what is called `name`.
    ///
    /// # Errors
    /// What is wrong with the settings, or that a registry is away.
    pub async fn reading(&self, name: &str) -> Result<Reading, CodecError> {
        self.spec().read(name).await
    }

    /// The half that writes what is called `name`.
    ///
    /// # Errors
    /// As of [`CodecSpec::reading`].
    pub async fn writing(&self, name: &str) -> Result<Writing, CodecError> {
        self.spec().write(name).await
    }
}

/// The part of [`CodecSettings`] that a `dyn` can have.
#[async_trait]
trait CodecOf: Send + Sync {
    fn schema(&self) -> Result<Option<serde_json::Value>, CodecError>;
    async fn read(&self, name: &str) -> Result<Reading, CodecError>;
    async fn write(&self, name: &str) -> Result<Writing, CodecError>;
}

#[async_trait]
impl<T: CodecSettings> CodecOf for T {
    fn schema(&self) -> Result<Option<serde_json::Value>, CodecError> {
        self.declared()
    }
    async fn read(&self, name: &str) -> Result<Reading, CodecError> {
        let reading = self.reading(name).await?;
        Ok(Reading { decoder: Arc::new(BoundedDecoder(reading.decoder)), ..reading })
    }
    async fn write(&self, name: &str) -> Result<Writing, CodecError> {
        let writing = self.writing(name).await?;
        Ok(Writing { writer: Arc::new(BoundedWriter(writing.writer)), ..writing })
    }
}
