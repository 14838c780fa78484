"""Play the scripted demo day through the real receiver."""
