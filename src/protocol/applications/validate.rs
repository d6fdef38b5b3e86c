//! Refuses manifests that cannot be meant so.
