//! A document: the tokens of one sample, and which of them are learned.

use cuvier_encoding::{
    Control, Conversation, Generation, MissingToken, Prompt, PromptOptions, Role, Segment, Tokenizer,
    encode_conversation,
};
use cuvier_types::TokenId;

use super::error::SampleError;
use super::sample::{Body, Chat, Sample};

/// One sequence to train on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The begin of sentence first.
    pub tokens: Vec<TokenId>,
    /// Per token, whether it counts as a target in the loss.
    pub trained: Vec<bool>,
}

/// Turns samples into documents.
#[derive(Clone, Copy, Debug)]
pub struct Encoder<'a> {
    /// The vocabulary.
    pub tokenizer: &'a Tokenizer,
    /// Which release of the chat format.
    pub generation: Generation,
}

impl Document {
    /// Tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether it has no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Tokens that count as targets.
    #[must_use]
    pub fn n_trained(&self) -> usize {
        self.trained.iter().filter(|&&trained| trained).count()
    }

    /// Whether it is plain text: all but the first token is trained. No conversation is that a user opens.
    #[must_use]
    pub fn is_text(&self) -> bool {
        matches!(self.trained.split_first(), Some((false, rest)) if rest.iter().all(|&trained| trained))
    }
}

impl Encoder<'_> {
    /// The document of a sample.
    ///
    /// Plain text stands between begin and end of sentence, and all but the begin is trained. Of a conversation, what
    /// the assistant says is trained: thoughts, the end of thoughts, content, calls, end of turn. Where the format
    /// leaves out old thoughts, an old answer does not continue the prompt that once asked for it and is not trained.
    ///
    /// # Errors
    /// If the conversation cannot be written in this vocabulary, or does not end with an answer.
    pub fn document(&self, sample: &Sample) -> Result<Document, SampleError> {
        match &sample.body {
            Body::Text(text) => Ok(self.text(text)?),
            Body::Chat(chat) => self.chat(chat),
        }
    }

    /// The tokens after which a model shall answer the question of the conversation anew.
    ///
    /// # Errors
    /// If the conversation cannot be written in this vocabulary.
    pub fn question(&self, chat: &Chat) -> Result<Vec<TokenId>, SampleError> {
        Ok(self.tokenizer.encode_prompt(&self.prompt(chat, &chat.question())?)?)
    }

    fn text(&self, text: &str) -> Result<Document, MissingToken> {
        let mut prompt = Prompt::continuation(text);
        prompt.push_control(Control::Eos);
        let tokens = self.tokenizer.encode_prompt(&prompt)?;
        let trained = (0..tokens.len()).map(|place| place > 0).collect();
        Ok(Document { tokens, trained })
    }

    fn chat(&self, chat: &Chat) -> Result<Document, SampleError> {
        let messages = &chat.conversation.messages;
        if messages.last().is_none_or(|last| last.role != Role::Assistant) {
            return Err(SampleError::NoAnswer);
        }
        let whole = self.prompt(chat, &chat.conversation)?;
        let mut trained = vec![false; whole.segments().len()];
        for index in (0..messages.len()).filter(|&index| messages[index].role == Role::Assistant) {
            let until = |end: usize| Conversation { messages: messages[..end].to_vec() };
            let question = self.prompt(chat, &until(index))?;
            let answered = self.prompt(chat, &until(index + 1))?;
            // Segments encode on their own, so what begins with the same segments begins with the same tokens.
            let continues = whole.segments().starts_with(answered.segments())
                && answered.segments().starts_with(question.segments());
            if continues {
                trained[question.segments().len()..answered.segments().len()].fill(true);
            } else if index + 1 == messages.len() {
                return Err(SampleError::NotContinued { message: index });
            }
        }
        Ok(self.segments(whole.segments(), &trained)?)
    }

    fn segments(&self, segments: &[Segment], trained: &[bool]) -> Result<Document, MissingToken> {
        let mut document = Document::default();
        for (segment, &trained) in segments.iter().zip(trained) {
            match segment {
                Segment::Control(token) => {
                    let id = self.tokenizer.control().id(*token);
                    document.tokens.push(id.ok_or(MissingToken { token: *token })?);
                }
                Segment::Text(text) => document.tokens.extend(self.tokenizer.encode_text(text)),
                Segment::Sampled(sampled) => document.tokens.extend(&sampled.tokens),
            }
            document.trained.resize(document.tokens.len(), trained);
        }
        Ok(document)
    }

    fn prompt(&self, chat: &Chat, conversation: &Conversation) -> Result<Prompt, SampleError> {
        let options = PromptOptions { generation: self.generation, thinking: chat.think.into() };
        Ok(encode_conversation(conversation, options)?)
    }
}

#[cfg(test)]
mod tests;
