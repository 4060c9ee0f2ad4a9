"""What keeps the rows private: the owner's secrets, and what its publication may reveal."""
