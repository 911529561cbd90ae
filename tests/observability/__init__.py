"""What people watch a broker with: alerts, dashboard, and the whole way of a grant that dies and is healed."""
