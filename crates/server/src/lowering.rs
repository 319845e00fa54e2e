//! Messages of any protocol to the conversation that the encoder writes.
//!
//! What the format cannot express is folded here, always in the same way, so that a conversation that grows keeps
//! its beginning: instructions in the middle become part of a user's turn, and what changes with every request
//! though nothing changed is left out.

use cuvier_encoding::{Content, Conversation, Message, Role};

/// A conversation as it is put together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lowering {
    /// Instructions before anything else was said.
    head: Vec<String>,
    messages: Vec<Message>,
}

/// A block that Claude Code puts first; it holds a number that is new in every request.
const BILLING: &str = "x-anthropic-billing-header:";

impl Lowering {
    /// Instructions: the leading ones are the system message, later ones a text of the user's turn they stand in.
    pub(crate) fn instruct(&mut self, text: &str) {
        let lines: Vec<&str> =
            text.split('\n').filter(|line| !line.trim_start().starts_with(BILLING)).collect();
        let text = lines.join("\n");
        if text.trim().is_empty() {
            return;
        }
        if self.messages.is_empty() {
            self.head.push(text);
        } else {
            self.messages.push(Message::text(Role::User, text));
        }
    }

    /// A user's message. An empty one beside a tool's result says nothing.
    pub(crate) fn user(&mut self, message: Message) {
        let follows_result = self.messages.last().is_some_and(|last| last.role == Role::Tool);
        if follows_result && message.task.is_none() && message.content.text().trim().is_empty() {
            return;
        }
        self.messages.push(message);
    }

    /// What a tool gave.
    pub(crate) fn result(&mut self, id: Option<&str>, content: Content) {
        let mut message = Message::text(Role::Tool, "");
        message.content = content;
        message.tool_call_id = id.map(str::to_owned);
        self.messages.push(message);
    }

    /// Any other message, as it is.
    pub(crate) fn message(&mut self, mut message: Message) {
        // One proxy writes a single space where there is no reasoning.
        message.reasoning_content = message.reasoning_content.filter(|text| !text.trim().is_empty());
        self.messages.push(message);
    }

    /// The whole conversation.
    pub(crate) fn finish(self) -> Conversation {
        let head = (!self.head.is_empty()).then(|| Message::text(Role::System, self.head.join("\n\n")));
        Conversation { messages: head.into_iter().chain(self.messages).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(lowering: Lowering) -> Vec<(Role, String)> {
        let text = |message: Message| (message.role, message.content.text().into_owned());
        lowering.finish().messages.into_iter().map(text).collect()
    }

    #[test]
    fn leading_instructions_are_one_and_later_ones_join_the_user() {
        let mut lowering = Lowering::default();
        lowering.instruct("a");
        lowering.instruct("b");
        lowering.user(Message::text(Role::User, "hello"));
        lowering.instruct("agents");
        let user = |text: &str| (Role::User, text.to_owned());
        let want = [(Role::System, "a\n\nb".to_owned()), user("hello"), user("agents")];
        assert_eq!(shape(lowering), want);
    }

    #[test]
    fn the_line_that_changes_with_every_request_is_left_out() {
        let mut lowering = Lowering::default();
        lowering.instruct("x-anthropic-billing-header: cch=123");
        lowering.instruct("real\nx-anthropic-billing-header: cch=4\nmore");
        assert_eq!(shape(lowering), [(Role::System, "real\nmore".to_owned())]);
    }

    #[test]
    fn an_empty_text_beside_a_result_says_nothing() {
        let mut lowering = Lowering::default();
        lowering.result(Some("a"), Content::Text("x".to_owned()));
        lowering.user(Message::text(Role::User, ""));
        assert_eq!(shape(lowering), [(Role::Tool, "x".to_owned())]);
    }
}
