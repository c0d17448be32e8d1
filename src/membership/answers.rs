//! Answers members that call: who this node is, what it knows, a change of keys. Whoever is not who it says, or has a name
//! that is taken, is refused. Calls of this node's own are in errands.rs.

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    call::{Answer, CallError, Card, LIMIT, Line, QUESTIONS, Question},
    core::envelope::{Keyring, Refused},
    driver::{Asked, Driver},
};
use crate::{
    net::Stream,
    rt::clock,
    telemetry::metrics::{GossipKind, GossipSide},
};

/// What there is to count of a call that was answered.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// Bytes that were sent and received.
    bytes: (usize, usize),
    /// Why its message was not opened.
    refused: Option<Refused>,
}

impl Driver {
    /// Answers a question.
    pub(super) fn reply(&mut self, question: Question, service: Option<&str>) -> Answer {
        match question {
            Question::Hello(card) => match self.welcome(card, service) {
                Ok(()) => Answer::Hello(self.card()),
                Err(no) => *no,
            },
            Question::Compare { card, digest, .. } => match self.welcome(card, service) {
                Ok(()) if digest == self.machine.digest() => Answer::Same(self.card()),
                Ok(()) => Answer::Different(self.card()),
                Err(no) => *no,
            },
            Question::Everything(card, knowledge) => {
                let own = self.machine.knowledge();
                let id = card.seen.id;
                match self.welcome(card, service) {
                    Ok(()) if knowledge.is_plausible() => {
                        self.machine.merge(knowledge, id, clock::now());
                        self.errands.has_compared = true;
                        self.dirty = true;
                        Answer::Everything(self.card(), own)
                    }
                    Ok(()) => Answer::Refused("this is more than can be known".to_owned()),
                    Err(no) => *no,
                }
            }
            Question::Keyring(change) => match self.change_keys(change) {
                Ok(()) => Answer::Hello(self.card()),
                Err(error) => Answer::Refused(error.to_string()),
            },
        }
    }

    fn welcome(&mut self, card: Card, service: Option<&str>) -> Result<(), Box<Answer>> {
        if let Err(why) = self.prove(&card, service) {
            tracing::warn!(address = %card.seen.address, node = %card.record.facts.node, reason = %why, "a member is refused");
            return Err(Box::new(Answer::Refused(why)));
        }
        let now = clock::now();
        if let Some((other, address)) = self.machine.named(&card.record.facts.node, card.seen.id) {
            if address != card.seen.address {
                self.journal.metrics.conflicted();
                tracing::warn!(node = %card.record.facts.node, %address, newcomer = %card.seen.address, "a member is refused: its name is taken");
                return Err(Box::new(Answer::NameTaken { address }));
            }
            // It has the address of the other, who then is not there any more: it was started without its data directory.
            self.machine.bury(other, now);
        }
        self.machine.meet(&card.seen, card.record, now);
        self.dirty = true;
        Ok(())
    }

    /// A call has been answered.
    pub(super) fn answered(&self, Answered { bytes: (sent, received), refused }: Answered) {
        let metrics = &self.journal.metrics;
        for (side, bytes) in [(GossipSide::Sent, sent), (GossipSide::Received, received)] {
            if bytes > 0 {
                metrics.message(GossipKind::PushPull, side, bytes);
            }
        }
        if let Some(refused) = refused {
            self.journal.dropped(refused);
        }
    }
}

/// Answers whoever has called, within the time of a call.
pub(super) async fn answer(
    line: Line,
    stream: Stream,
    keyring: Keyring,
    questions: mpsc::Sender<Asked>,
) -> Answered {
    let mut answered = Answered::default();
    let answering = async {
        let mut session = line.accept(stream).await?;
        for _ in 0..QUESTIONS {
            let question = session.asked(&keyring).await;
            answered.bytes = session.bytes;
            let Some(question) = question? else { break };
            let (answer, made) = oneshot::channel();
            let asked = Asked { question, service: session.service.clone(), answer };
            if questions.send(asked).await.is_err() {
                break;
            }
            let Ok(answer) = made.await else { break };
            session.answer(&answer, &keyring).await?;
            answered.bytes = session.bytes;
        }
        Ok::<_, CallError>(())
    };
    let ended = timeout(LIMIT, answering).await;
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::debug!(%error, "a call of a member came to nothing");
            if let CallError::Sealed(refused) = error {
                answered.refused = Some(refused);
            }
        }
        Err(_) => tracing::debug!("a call of a member took too long"),
    }
    answered
}
