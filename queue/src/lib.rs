//! celesta-queue
