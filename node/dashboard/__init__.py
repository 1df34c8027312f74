"""What a person looks at: tables and plots made of statuses, reports and DataFrames; asks nobody for anything."""
