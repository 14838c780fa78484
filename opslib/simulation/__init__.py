"""The demo's scripted trading day: what happens, what the pages post, and what is true."""
