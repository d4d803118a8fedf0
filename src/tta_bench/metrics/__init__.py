"""How well a predicted mask agrees with the true one."""
