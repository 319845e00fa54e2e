//! `eval`: what a model can do: tasks with known answers, asked through the engine, and scores of held-out text.
