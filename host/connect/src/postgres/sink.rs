//! The session as a sink: of a store, which commits, or alone, where each flush commits.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;
use wasmill_engine::output::{EncodedBatch, Encoder, OutputId};
use wasmill_frame::Message;

use super::encoder::RowEncoder;
use super::session::Session;
use super::spec::PostgresSinkSpec;
use super::table::Target;
use crate::{ConnectorError, Refused, Sink, SinkTraits, Writer, codec};

/// What a flush answers: what is committed the database itself knows.
const TOKEN: &str = "postgres";

/// Writes rows to a table.
pub(super) struct PostgresSink {
    spec: PostgresSinkSpec,
    session: Arc<Mutex<Session>>,
    number: usize,
    /// Whether each flush commits, for nobody else does.
    alone: bool,
    exact: bool,
    target: Option<Arc<Target>>,
    refused: Vec<Refused>,
}

impl PostgresSink {
    /// A sink whose flushes commit.
    pub fn alone(spec: PostgresSinkSpec) -> Result<Self, ConnectorError> {
        spec.check()?;
        let mut session = Session::new(&spec.address(), &spec.table)?;
        let number = session.join(&spec);
        Ok(Self::new(spec, Arc::new(Mutex::new(session)), number, true))
    }

    /// The sink of a session that is committed by its store.
    pub fn of(spec: &PostgresSinkSpec, session: Arc<Mutex<Session>>, number: usize) -> Self {
        Self::new(spec.clone(), session, number, false)
    }

    fn new(spec: PostgresSinkSpec, session: Arc<Mutex<Session>>, number: usize, alone: bool) -> Self {
        Self { spec, session, number, alone, exact: false, target: None, refused: Vec::new() }
    }
}

#[async_trait]
impl Sink for PostgresSink {
    fn traits(&self) -> SinkTraits {
        if self.alone {
            self.spec.like_alone()
        } else {
            // A repeat is of an epoch that was not committed, and of that nothing is there.
            SinkTraits { transactional: true, refuses_repeats: true, by_token: false }
        }
    }

    fn identify(&mut self, writer: Writer) {
        self.exact = writer.exact;
    }

    fn encoder(&self, _: &codec::Writing) -> Arc<dyn Encoder> {
        match &self.target {
            Some(target) => Arc::new(RowEncoder::new(target)),
            None => Arc::new(Unknown),
        }
    }

    async fn recover(&mut self, _token: Option<&str>) -> Result<(), ConnectorError> {
        self.refused.clear();
        self.target = Some(self.session.lock().await.recover(self.number, self.exact).await?);
        Ok(())
    }

    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        self.session.lock().await.keep(self.number, batch);
        Ok(())
    }

    async fn flush(&mut self) -> Result<String, ConnectorError> {
        let mut session = self.session.lock().await;
        if self.alone {
            session.commit_alone().await?;
        } else {
            session.fill().await?;
        }
        self.refused.append(&mut session.told(self.number));
        Ok(TOKEN.to_owned())
    }

    fn refused(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.refused)
    }

    async fn publish(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn close(&mut self, in_order: bool) -> Result<(), ConnectorError> {
        let mut session = self.session.lock().await;
        if !in_order {
            session.forget().await;
        }
        // The store's connection goes with the store.
        if self.alone {
            session.disconnect();
        }
        Ok(())
    }
}

/// Before the table is known.
struct Unknown;

impl Encoder for Unknown {
    fn encode(&self, _: Message<'_>, _: &OutputId<'_>, _: &mut EncodedBatch) -> Result<(), String> {
        Err("the table's columns are not known before the sink is recovered".into())
    }
}
